"""ffmpeg's arguments for one clip: what is read, the filters of pictures and sound, and the files that are written."""

from dataclasses import dataclass, replace
from pathlib import Path

from avpipe.clips import INDEXED, OPENING
from avpipe.media.presets import Preset
from avpipe.media.probe import Media

MARGIN = 30.0  # seconds before the interval at which reading starts in containers without an index
FROM_START = 600.0  # seconds; an earlier interval of sound alone is read from the start, so that no time is an estimate
UNTIMED = frozenset(("mp3", "aac", "ac3", "eac3"))  # containers without time stamps
LARGEST_PICTURE = 8192 * 4608  # pixels


@dataclass(frozen=True)
class Cut:
    """What `convert_clip` converts; `start` and `length` in seconds on the file's time axis."""

    source: Path
    start: float
    length: float
    preset: Preset
    target: Path

    def file(self, extension: str) -> Path:
        """The output with this extension."""
        return self.target.with_name(f"{self.target.name}.{extension}")

    @property
    def frames(self) -> int:
        """Frames of the clip that is made."""
        return self.preset.frames if self.preset.pad else self.preset.frames_in(self.length)

    @property
    def samples(self) -> int:
        """Samples of the clip that is made, in each channel."""
        return self.preset.samples_beside(self.frames)


def arguments(cut: Cut, media: Media) -> list[str]:
    """ffmpeg's arguments for both outputs of one decoding. Each has filters of its own, so that neither disturbs the other."""
    preset = cut.preset
    command = _opening(cut, media)
    if media.video is not None:
        filters = [*_to_time(cut, media, ""), *_video_filters(cut)]
        coding = ["-c:v", "libx264", "-preset", preset.x264, "-crf", str(preset.crf), "-flags:v", "+bitexact"]
        groups = ["-g", str(preset.group), "-keyint_min", str(preset.group), "-sc_threshold", "0", "-bf", "0"]
        command += _output(media.video.index, filters, [*coding, *groups, "-f", "mp4"], cut.file("mp4"))
    if media.audio is not None:
        filters = [*_to_time(cut, media, "a"), *_audio_filters(cut)]
        command += _output(media.audio.index, filters, _FLAC, cut.file("flac"))
    return [*command, "-filter_complex_threads", "1", "-y"]


_FLAC = ["-c:a", "flac", "-sample_fmt", "s16", "-flags:a", "+bitexact", "-f", "flac"]


def _opening(cut: Cut, media: Media) -> list[str]:
    """Arguments that open the source."""
    begin = _begin(cut, media)
    # If the picture's size changes, keep the same filters: new ones would start at time 0 again.
    command = ["-threads", "1", "-reinit_filter:v", "0", "-max_pixels", str(LARGEST_PICTURE)]
    for name, value in OPENING.items():
        command += [f"-{name}", value]
    if media.joined:
        # Around a joint, packets of both parts are mixed. ffmpeg must notice each jump, also one of less than its usual 10 s.
        command += ["-dts_delta_threshold", "1"]
    if begin > 0:
        # Without accurate seeking ffmpeg also decodes what is before `begin`, at negative times. So the filters cut
        # exactly, and know which picture is on screen at `start`.
        command += ["-ss", f"{begin:.6f}", "-noaccurate_seek"]
    return [*command, "-i", f"file:{cut.source}"]


def _output(stream: int, filters: list[str], coding: list[str], path: Path) -> list[str]:
    """Arguments for one output: the stream with this index through the filters."""
    plain = ["-threads", "1", "-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"]
    graph = f"[0:{stream}]{','.join(filters)}[out{path.suffix[1:]}]"
    return ["-filter_complex", graph, "-map", f"[out{path.suffix[1:]}]", *plain, *coding, f"file:{path}"]


def _to_time(cut: Cut, media: Media, kind: str) -> list[str]:
    """The filter that makes the interval's start time 0; `kind` "a" for sound."""
    return [f"{kind}setpts=PTS-{cut.start - _begin(cut, media):.6f}/TB"]


def steady_arguments(cut: Cut, media: Media) -> tuple[list[str], list[str]]:
    """ffmpeg's arguments for sound whose layout or rate changes: to a file "nut" of one layout and rate, and on to the clip.

    ffmpeg sets up its filters anew at each change. Filters that count or fill from time 0 would begin again, so the first
    step only converts and keeps each sample's time; the second step does the rest. In formats without time stamps the
    times that ffmpeg makes up are wrong after a change of rate: there the samples are counted.
    """
    assert media.audio is not None
    index, preset, steady = media.audio.index, cut.preset, cut.file("nut")
    if media.container in UNTIMED:
        media = replace(media, joined=True)  # reads from the start
        convert, then = _audio_format(preset), ["asetpts=N/SR/TB", *_to_time(cut, media, "a")]
    else:
        convert, then = [*_to_time(cut, media, "a"), _interval(cut.length), *_audio_format(preset)], []
    first = _output(index, convert, ["-c:a", "pcm_s16le", "-f", "nut"], steady)
    second = _output(0, [*then, *_audio_filters(cut)], _FLAC, cut.file("flac"))
    return [*_opening(cut, media), *first, "-y"], ["-copyts", "-i", f"file:{steady}", *second, "-y"]


def unmixed_arguments(cut: Cut, media: Media) -> list[str]:
    """ffmpeg's arguments for the sound of the interval as a file "wav" with the channels that the source has."""
    assert media.audio is not None
    filters = [*_to_time(cut, media, "a"), _interval(cut.length), "aformat=sample_fmts=flt"]
    return [*_opening(cut, media), *_output(media.audio.index, filters, ["-f", "wav"], cut.file("wav")), "-y"]


def _begin(cut: Cut, media: Media) -> float:
    """Seconds to seek to.

    Containers without an index are read from a margin before the interval on, because a seek may land after its time;
    from the start where time stamps begin again on the way.
    """
    if INDEXED.intersection(media.container.split(",")):
        return cut.start
    if media.joined or (media.video is None and cut.start < FROM_START):
        return 0.0
    return max(0.0, cut.start - MARGIN)


def _video_filters(cut: Cut) -> list[str]:
    """Cut; constant rate (`fps` also counts the frames); size and colours; then repeat the last picture."""
    preset = cut.preset
    size = f"{preset.width}:{preset.height}:flags=bicubic+accurate_rnd+bitexact:out_color_matrix=bt601:out_range=tv"
    if preset.aspect == "keep":  # even sizes, which H.264 needs
        size = f"{size}:force_original_aspect_ratio=increase:force_divisible_by=2"
    return [
        f"trim=end={cut.length:.6f}",
        f"fps=fps={preset.fps}:start_time=0:round=near",
        f"scale={size}",
        "setsar=1",
        "format=yuv420p",
        "tpad=stop_mode=clone:stop=-1",
        f"trim=end_frame={cut.frames}",
    ]


def _interval(length: float) -> str:
    """Cut sound."""
    return f"atrim=start=0:end={length:.6f}"


def _audio_format(preset: Preset, fill: str = "") -> list[str]:
    """Rate and channels."""
    layout = {1: "mono", 2: "stereo"}[preset.channels]
    return [
        f"aresample={preset.sample_rate}:{fill}rematrix_maxval=1",
        f"aformat=sample_fmts=s16:channel_layouts={layout}",
    ]


def _audio_filters(cut: Cut) -> list[str]:
    """Cut; rate and channels, with gaps filled; count the samples (`ashowinfo`); then silence."""
    return [
        _interval(cut.length),
        *_audio_format(cut.preset, "async=1:first_pts=0:"),
        f"asetnsamples=n={cut.preset.sample_rate}:p=0",  # with small pieces the run takes a tenth longer
        "ashowinfo",
        f"apad=whole_len={cut.samples}",
        f"atrim=end_sample={cut.samples}",
    ]
