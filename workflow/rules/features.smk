# Stage 4: canonical clips to features. A job's output is its shard's file in the zarr array.
# The extractors of a bundle share a job, so that each clip is decoded once for all of them.

for bundle in plan.bundles:

    rule:
        name:
            f"extract_{plan.of_bundle(bundle)}"
        input:
            segments=plan.segments(bundle).replace(plan.results, "results/{dataset}"),
            index=ancient("results/{dataset}/manifest.json"),
            weights=partial(plan.extractor_weights, bundle),
        output:
            [plan.chunk(name, "{shard}").replace(plan.results, "results/{dataset}") for name in bundle],
        log:
            f"results/{{dataset}}/logs/extract/{plan.of_bundle(bundle)}/{{shard}}.log",
        benchmark:
            f"results/{{dataset}}/benchmarks/extract/{plan.of_bundle(bundle)}/{{shard}}.tsv"
        group:
            plan.group_of("extract", bundle)
        conda:
            "../../envs/torch.yaml"
        threads: plan.extraction_threads(bundle)
        resources:
            gpu=plan.on_gpu,
            gpu_percent=100 * plan.on_gpu,
            extraction=1,
            mem_mb=each_attempt(plan.extraction_memory(bundle)),
            runtime=each_attempt(240),
        params:
            code=plan.extract_code(bundle),
            extractors=partial(plan.extractor_options, bundle),
            device=plan.device,
            weights=([f"--weights={study.weights_folder}"] if study.weights_folder else []),
        shell:
            "python -m avpipe features extract {params.extractors:q} --segments {input.segments}"
            " --manifest {input.index} --shard {wildcards.shard} --out results/{wildcards.dataset}/features"
            " --device {params.device} {params.weights:q} --threads {threads} > {log} 2>&1"


# Published features: note the files' sizes and hashes, then import them shard by shard into the same kind of array.
for name in plan.imports:

    rule:
        name:
            f"inspect_{name}"
        output:
            f"results/{{dataset}}/features/{name}.json",
        log:
            f"results/{{dataset}}/logs/import/{name}.log",
        conda:
            "../../envs/torch.yaml"
        resources:
            mem_mb=each_attempt(4000),
            runtime=each_attempt(60),
        params:
            code=code("inspect"),
            published=partial(plan.imported_options, name),
            inventory=partial(plan.imported_inventory, name),
        shell:
            "python -m avpipe features inspect {params.published:q} --out {output} > {log} 2>&1"

    rule:
        name:
            f"import_{name}"
        input:
            published=f"results/{{dataset}}/features/{name}.json",
            index=ancient("results/{dataset}/manifest.json"),
            manifest=ancient("results/{dataset}/manifest.parquet"),
        output:
            plan.chunk(name, "{shard}").replace(plan.results, "results/{dataset}"),
        log:
            f"results/{{dataset}}/logs/import/{name}/{{shard}}.log",
        conda:
            "../../envs/torch.yaml"
        resources:
            mem_mb=each_attempt(4000),
            runtime=each_attempt(60),
        params:
            code=code("import"),
            clips=plan.shard_digest,
            options=partial(plan.imported_options, name),
        shell:
            "python -m avpipe features import {params.options:q} --published {input.published}"
            " --shard {wildcards.shard} --results results/{wildcards.dataset} > {log} 2>&1"


# Training depends on one file per feature, not on every shard. A job counts the features of a bundle.
for bundle in [*plan.bundles, *((name,) for name in plan.imports)]:

    rule:
        name:
            f"coverage_{plan.of_bundle(bundle)}"
        input:
            chunks=partial(coverage_chunks, bundle),
            manifest=ancient("results/{dataset}/manifest.parquet"),
        output:
            [f"results/{{dataset}}/features/{name}.csv" for name in bundle],
        log:
            f"results/{{dataset}}/logs/coverage/{plan.of_bundle(bundle)}.log",
        localrule: True
        conda:
            "../../envs/torch.yaml"
        resources:
            mem_mb=each_attempt(2000),
            runtime=each_attempt(60),
        params:
            code=code("coverage"),
        shell:
            "python -m avpipe features coverage {output} --manifest {input.manifest} > {log} 2>&1"
