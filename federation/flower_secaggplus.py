"""Flower's own SecAgg+ in this process, to measure ours against: private parts of flwr 1.41, for a bench alone."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray


@dataclass(frozen=True)
class SecAggPlusCosts:
    """CPU seconds of Flower's own SecAgg+, and what one site uploads as its masked vector."""

    site_s: float
    server_s: float
    uplink_bytes: int


def secagg_plus(vectors: Sequence[NDArray[np.float32]], *, threshold: int, dropouts: int = 0) -> SecAggPlusCosts:
    """One round of Flower's SecAgg+ in this process: its client mod and its server workflow, joined by function calls.

    Complete graph, its default 32-bit ring; the last `dropouts` sites are silent from the masked vectors on. Nothing is
    serialised on the way, which favours it. For a process of its own: Flower takes names for its messages from it. CPU
    time of all threads: a site's is that of its calls to the mod, averaged
    over the sites; the server's is that of the workflow without them.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    grid = _InProcessGrid(vectors, dropouts)
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=threshold, max_weight=1.0)
    parameters = ndarrays_to_parameters([])
    context = SimpleNamespace(
        state=RecordDict(
            {"config": ConfigRecord({"current_round": 1}), "parameters": parameters_to_arrayrecord(parameters, True)}
        ),
        strategy=SimpleNamespace(
            configure_fit=lambda *asked: [
                (SimpleNamespace(node_id=node), FitIns(parameters, {})) for node in grid.contexts
            ],
            aggregate_fit=lambda *results: (None, {}),
        ),
        client_manager=SimpleNamespace(num_available=lambda: len(vectors)),
    )
    state = WorkflowState()
    begun = time.process_time()
    steps = (
        workflow.setup_stage, workflow.share_keys_stage, workflow.collect_masked_vectors_stage, workflow.unmask_stage,
    )  # fmt: skip
    if not all(step(grid, context, state) for step in steps):  # type: ignore[arg-type]
        raise RuntimeError("flower's secure aggregation stopped")
    total = time.process_time() - begun
    return SecAggPlusCosts(grid.site_s / len(vectors), total - grid.site_s - grid.carrier_s, grid.uplink_bytes)


class _InProcessGrid:
    """A Grid as far as the workflow uses one: every message is handed to Flower's mod for its node."""

    def __init__(self, vectors: Sequence[NDArray[np.float32]], dropouts: int) -> None:
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in range(1, len(vectors) + 1)}
        self.site_s = self.carrier_s = 0.0
        self.uplink_bytes = 0
        self._vectors, self._dropouts = vectors, dropouts

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        begun, before = time.process_time(), self.site_s
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            # One record is in all messages, and the mod takes fields out of it: every node reads its own copy.
            configs = ConfigRecord(dict(message.content.config_records[RECORD_KEY_CONFIGS]))
            records = RecordDict({**message.content, RECORD_KEY_CONFIGS: configs})
            asked = Message(records, node, "train")
            late = configs[Key.STAGE] in (Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK)
            if late and node > len(self._vectors) - self._dropouts:
                continue
            at = time.process_time()
            reply = secaggplus_mod(asked, self.contexts[node], self._trained)
            self.site_s += time.process_time() - at
            masked = reply.content.config_records[RECORD_KEY_CONFIGS].get(Key.MASKED_PARAMETERS)
            if masked is not None:
                self.uplink_bytes = sum(len(part) for part in masked)  # type: ignore[union-attr, arg-type, misc]
            replies.append(reply)
        self.carrier_s += time.process_time() - begun - (self.site_s - before)
        return replies

    def _trained(self, message: Message, context: Context) -> Message:
        """What training has left at this node; its weight is 1."""
        parameters = ndarrays_to_parameters([self._vectors[message.metadata.dst_node_id - 1]])
        result = FitRes(Status(Code.OK, ""), parameters, 1, {})
        return Message(fitres_to_recorddict(result, keep_input=False), reply_to=message)
