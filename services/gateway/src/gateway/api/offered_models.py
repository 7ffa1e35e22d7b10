"""The models, aliases and pipelines that a caller may ask for: what his scopes, allowlists and region leave of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.inference.v1 import inference_pb2 as inference
from penstock.vector_search.v1 import vector_search_pb2 as vectors

from gateway.api.backends import KnowledgeBases, Models
from gateway.api.upstream import naming
from gateway.core import accounts, scopes
from gateway.core.accounts import Account
from gateway.core.routes import Route
from gateway.core.targets import PIPELINE_PREFIX, ModelNotFound, Pipeline, target_of


class OfferedModels:
    """Lists and finds what the account of the call at hand may name in `model`."""

    def __init__(
        self, models: Models, knowledge_bases: KnowledgeBases, routes: Callable[[], Mapping[str, Route]]
    ) -> None:
        """Take where models and knowledge bases are, and what returns the routes in force by alias."""
        self._models = models
        self._knowledge_bases = knowledge_bases
        self._routes = routes

    async def list(self) -> list[inference.Model]:
        """Return everything that is offered, by name; an alias with what is known of its best candidate."""
        account = accounts.current()
        found: dict[str, inference.Model] = {}
        if account.scopes & {scopes.MODELS, scopes.EMBEDDINGS}:
            known = {model.name: model for model in (await self._models.list()).models}
            found = {name: model for name, model in known.items() if _opens(account, model)}
            found |= self._aliases(account, known)
        if scopes.ASK in account.scopes:
            bases = (await self._knowledge_bases.list()).knowledge_bases
            found |= {each.name: each for each in map(_pipeline, bases) if account.allows(each.name)}
        return [found[name] for name in sorted(found)]

    async def get(self, name: str) -> inference.Model:
        """Return one of them; raise ModelNotFound, also for what there is but not for this account."""
        target, account = target_of(name), accounts.current()
        if not account.allows(name):
            raise ModelNotFound(name)
        with naming(name):
            if isinstance(target, Pipeline):
                if scopes.ASK not in account.scopes:
                    raise ModelNotFound(name)
                base = await self._knowledge_bases.get(vectors.GetKnowledgeBaseRequest(name=target.knowledge_base))
                return _pipeline(base.knowledge_base)
            if not account.scopes & {scopes.MODELS, scopes.EMBEDDINGS}:
                raise ModelNotFound(name)
            return await self._model(name, account)

    async def _model(self, name: str, account: Account) -> inference.Model:
        if name in self._routes():
            known = {model.name: model for model in (await self._models.list()).models}
            found = self._aliases(account, known).get(name)
        else:
            found = (await self._models.get(inference.GetModelRequest(name=name))).model
        if found is None or not _opens(account, found):
            raise ModelNotFound(name)
        return found

    def _aliases(self, account: Account, known: Mapping[str, inference.Model]) -> dict[str, inference.Model]:
        aliases: dict[str, inference.Model] = {}
        for alias, route in self._routes().items():
            best = _best(_comparable([known.get(each) for each in route.candidates]), account)
            if best is not None and account.allows(alias):
                aliases[alias] = inference.Model()
                aliases[alias].CopyFrom(best)
                aliases[alias].name = alias
        return aliases


def _comparable(candidates: Sequence[inference.Model | None]) -> list[inference.Model]:
    """Return the candidates that are there; of encoders, those that give the vectors of the first."""
    first, there = candidates[0], [model for model in candidates if model is not None]
    if not any(model.task == inference.MODEL_TASK_EMBED for model in there):
        return there
    digest = "" if first is None else first.digest
    return [model for model in there if model is first or (digest and model.digest == digest)]


def _best(candidates: Iterable[inference.Model], account: Account) -> inference.Model | None:
    usable = [model for model in candidates if _opens(account, model)]
    return next((model for model in usable if model.ready), usable[0] if usable else None)


def _opens(account: Account, model: inference.Model) -> bool:
    needed = scopes.EMBEDDINGS if model.task == inference.MODEL_TASK_EMBED else scopes.MODELS
    where_it_may = not account.region or model.region == account.region
    return needed in account.scopes and account.allows(model.name) and where_it_may


def _pipeline(base: vectors.KnowledgeBase) -> inference.Model:
    return inference.Model(
        name=f"{PIPELINE_PREFIX}{base.name}",
        task=inference.MODEL_TASK_GENERATE,
        provider="penstock",
        version=str(base.revision),
        ready=True,
        created_at=base.created_at,
        description=f"Grounded answers from the knowledge base {base.name}",
    )
