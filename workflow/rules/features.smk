# Stage 4: canonical clips to features. The rule's output is the file that holds the shard in the zarr array.
# Extractors of one bundle share a job, so that each clip is decoded once for all of them.

for bundle in plan.bundles:

    rule:
        name:
            f"extract_{'_'.join(bundle)}"
        input:
            segments=f"results/{{dataset}}/segments/{study.media.preset}/{{shard}}.tar",
            index=ancient("results/{dataset}/manifest.json"),
        output:
            [plan.chunk(name, "{shard}").replace(plan.results, "results/{dataset}") for name in bundle],
        log:
            f"results/{{dataset}}/logs/extract/{'_'.join(bundle)}/{{shard}}.log",
        benchmark:
            f"results/{{dataset}}/benchmarks/extract/{'_'.join(bundle)}/{{shard}}.tsv"
        conda:
            "../../envs/torch.yaml"
        threads: share_of_cores
        resources:
            gpu=int(study.device.startswith("cuda")),
        params:
            code=extract_code([study.extractors[name].backbone for name in bundle]),
            extractors=extractor_options(bundle),
            device=study.device,
            weights=([f"--weights={study.weights_folder}"] if study.weights_folder else []),
        shell:
            "python -m avpipe features extract {params.extractors:q} --segments {input.segments}"
            " --manifest {input.index} --shard {wildcards.shard} --out results/{wildcards.dataset}/features"
            " --device {params.device} {params.weights:q} --threads {threads} > {log} 2>&1"
