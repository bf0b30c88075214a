# Stage 2: clip names to files on disk. Downloaded files are not declared as output, so that a failed job keeps them.
# A shard counts as done even if some clips failed for now; the pipeline continues with the rest, and tables say how many
# are missing.


rule fetch:
    input:
        manifest=ancient("results/{dataset}/manifest.parquet"),
        index=ancient(manifest_index_file),
    output:
        "results/{dataset}/downloads/{shard}.parquet",
    log:
        "results/{dataset}/logs/fetch/{shard}.log",
    conda:
        "../../envs/download.yaml"
    resources:
        downloads=int(downloads_anything),
        mem_mb=each_attempt(2000),
        runtime=1440 if downloads_anything else 240,
    params:
        code=fetch_code([source.kind for source in study.dataset.sources]),
        clips=shard_digest,
        identities=source_identities,
        sources=source_options,
        files="results/{dataset}/downloads/files",
    shell:
        "python -m avpipe download shard --manifest {input.manifest} --shard {wildcards.shard} {params.sources:q}"
        " --out {output} --files {params.files} > {log} 2>&1"
