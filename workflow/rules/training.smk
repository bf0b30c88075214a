# Stage 5: features to runs. One job trains all seeds of an experiment and loads the features once; from clips, each seed is a job.


# One job writes all experiments, in a second. A file's name says what is in it, so runs do not compare its time.
rule experiments:
    output:
        update(plan.experiment_files),  # Snakemake would remove the others while it adds one
    log:
        f"{plan.results}/logs/experiments.log",
    run:
        plan.write_experiments()


for seeds in plan.by_seeds:

    rule:
        name:
            plan.of_seeds("train", seeds)
        input:
            experiment=ancient("results/{dataset}/runs/{experiment}/experiment.json"),
            clips="results/{dataset}/clips.parquet",
            manifest="results/{dataset}/manifest.parquet",
            features=run_inputs,
            start=partial(plan.run_start, seeds),
            off_screen=plan.run_off_screen,
            index=ancient("results/{dataset}/manifest.json"),
            labels=ancient(["results/{dataset}/events.parquet", "results/{dataset}/categories.csv"]),
        output:
            metrics=expand(
                "results/{{dataset}}/runs/{{experiment}}/seed{seed}/metrics.json",
                seed=seeds,
            ),
            predictions=expand(
                "results/{{dataset}}/runs/{{experiment}}/seed{seed}/predictions.parquet",
                seed=seeds,
            ),
            checkpoints=expand(
                "results/{{dataset}}/runs/{{experiment}}/seed{seed}/checkpoint.pt",
                seed=seeds,
            ),
        log:
            f"results/{{dataset}}/logs/train/{plan.of_seeds('{experiment}', seeds)}.log",
        benchmark:
            f"results/{{dataset}}/benchmarks/train/{plan.of_seeds('{experiment}', seeds)}.tsv"
        wildcard_constraints:
            experiment="|".join(plan.by_seeds[seeds]),
        conda:
            "../../envs/torch.yaml"
        threads: plan.training_threads
        resources:
            gpu=plan.training_gpus,
            gpu_percent=plan.training_gpu_asked,
            mem_mb=plan.training_memory,
            runtime=plan.training_minutes,
        params:
            code=plan.run_code,
            labels=plan.labels_digest,
            seeds=[f"--seed={seed}" for seed in seeds],
            device=plan.device,
            features=plan.feature_memory,
            gpu=plan.training_gpu,
            processes=plan.training_processes,
        shell:
            "python -m avpipe train {input.experiment} {params.seeds} --device {params.device} --threads {threads}"
            " --feature-memory {params.features} --gpu-percent {params.gpu} --processes {params.processes} --log {log}"
            " > {log} 2>&1"


# Save a trained model's test-set embeddings, for t-SNE figures.
rule embed:
    input:
        experiment=ancient("results/{dataset}/runs/{experiment}/experiment.json"),
        run=expand(
            "results/{{dataset}}/runs/{{experiment}}/seed{{seed}}/{file}",
            file=["metrics.json", "checkpoint.pt"],
        ),
        clips="results/{dataset}/clips.parquet",
        manifest="results/{dataset}/manifest.parquet",
        features=run_inputs,
    output:
        "results/{dataset}/runs/{experiment}/seed{seed}/embeddings.npz",
    log:
        "results/{dataset}/logs/embed/{experiment}-{seed}.log",
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        gpu=plan.on_gpu,
        gpu_percent=100 * plan.on_gpu,
        mem_mb=plan.training_memory,
        runtime=each_attempt(60),
    params:
        code=plan.run_embed_code,
        device=plan.device,
    shell:
        "python -m avpipe embed {input.experiment} --seed {wildcards.seed} --device {params.device}"
        " --threads {threads} > {log} 2>&1"
