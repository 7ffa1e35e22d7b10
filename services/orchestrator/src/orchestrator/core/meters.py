"""What the orchestrator counts and measures."""

from servicekit.telemetry.metrics import SHORT_BUCKETS_S, counter, histogram

ANSWERS = counter("penstock_orchestrator_answers", "Answers by the rung that gave them", ("rung", "declined"))
DEGRADATIONS = counter("penstock_orchestrator_degradations", "Degradations by step and reason", ("step", "reason"))
REMOVED_CITATIONS = counter("penstock_orchestrator_removed_citations", "Citations that the passages did not bear out")
STEP_SECONDS = histogram("penstock_orchestrator_step_seconds", "Duration of pipeline steps", ("step",), SHORT_BUCKETS_S)
DOCUMENTS = counter("penstock_orchestrator_ingested_documents", "Documents by how their ingestion ended", ("outcome",))
STEPS = ("embed", "search", "rerank", "prompt", "generate", "ground")
SECONDS_OF = {step: STEP_SECONDS.labels(step) for step in STEPS}  # looking a label up costs more than the observation
