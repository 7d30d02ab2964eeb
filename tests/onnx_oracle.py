"""ONNX's reference evaluator: an independent home of the reset gate's first form and of peepholes."""

import numpy as np

INPUTS = {"GRU": ["X", "W", "R", "B", "", "h"], "LSTM": ["X", "W", "R", "B", "", "h", "c", "P"]}
OUTPUTS = {"GRU": ["", "h_after"], "LSTM": ["", "h_after", "c_after"]}


def step(kind, x, order, params, h, **attributes):
    """The states after one step of an ONNX cell, from our packed columns and the order of its gates among ours."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    gates = len(order)

    def packed(w):
        parts = np.split(np.asarray(w), gates, axis=-1)
        return np.concatenate([parts[gate] for gate in order], axis=-1).T[None]

    b = np.concatenate([packed(params.b_x), packed(params.b_h)], axis=-1)
    given = {"X": x[None, None], "W": packed(params.w_x), "R": packed(params.w_h), "B": b, "h": h[None, None]}
    states = {name: value for name, value in attributes.items() if isinstance(value, np.ndarray)}
    options = {name: value for name, value in attributes.items() if name not in states}
    node = helper.make_node(kind, INPUTS[kind], OUTPUTS[kind], hidden_size=len(h), **options)
    after = ReferenceEvaluator(node).run(None, given | states)
    return [np.asarray(out)[0, 0] for out in after if out is not None]
