# avpipe: from annotation files to the tables of papers.
#
#   snakemake --cores 8 --use-conda all                              the demo study, config.yaml
#   snakemake --cores 8 all --configfile workflow/configs/ave.yaml   another study: its file replaces config.yaml
#
# The targets are the tables of papers: workflow/tables/*.yaml name the experiments, and Snakemake makes all they need.
from snakemake.utils import min_version

min_version("9.25")


# A study's file replaces config.yaml. If the two were merged, a key left out would silently keep the demo's value.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


report: "workflow/report/workflow.rst"


# Only --use-apptainer reads it: the image of envs/Dockerfile, whose head says how it is built.
container: "avpipe.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/media.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"


onsuccess:
    # Printed when Snakemake ends, so that the warning is its last line.
    if plan.empty_tables():
        message = (
            "WARNING: no number could be measured for {}: their notes, and `avpipe why`, say the reasons"
        )
        atexit.register(print, message.format(", ".join(plan.empty_tables())), file=sys.stderr)


rule all:
    default_target: True
    input:
        all_results,
