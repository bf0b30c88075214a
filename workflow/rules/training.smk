# Stage 5: features to runs. One job trains all seeds of an experiment: they share a process and the features.


def run_features(wildcards):
    """Every shard of the features that the experiment reads."""
    return feature_chunks(sorted(set(experiment_of(wildcards).features.values())))


def run_code(wildcards):
    """The fingerprint of the loop, the task and this experiment's model; no other model's."""
    return train_code(experiment_of(wildcards))


def run_experiment(wildcards):
    """The experiment as one line of json."""
    return experiment_of(wildcards).to_json()


rule train:
    input:
        clips="results/{dataset}/clips.parquet",
        features=run_features,
        index=ancient("results/{dataset}/manifest.json"),
        labels=ancient(["results/{dataset}/events.parquet", "results/{dataset}/categories.csv"]),
    output:
        metrics=expand("results/{{dataset}}/runs/{{experiment}}/seed{seed}/metrics.json", seed=study.seeds),
        predictions=expand("results/{{dataset}}/runs/{{experiment}}/seed{seed}/predictions.parquet", seed=study.seeds),
    log:
        "results/{dataset}/logs/train/{experiment}.log",
    benchmark:
        "results/{dataset}/benchmarks/train/{experiment}.tsv"
    params:
        code=run_code,
        experiment=run_experiment,
        labels=labels_digest,
        seeds=[f"--seed={seed}" for seed in study.seeds],
        device=study.device,
    conda:
        "../../envs/torch.yaml"
    resources:
        gpu=int(study.device.startswith("cuda")),
    shell:
        "python -m avpipe train --experiment {params.experiment:q} --results results/{wildcards.dataset} {params.seeds}"
        " --device {params.device} --threads {threads} --log {log} > {log} 2>&1"
