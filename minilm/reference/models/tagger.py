"""A tagger by hand: an encoder, a score for every tag, and the loss of tags chosen alone or together.

Parameters are the NamedTuples of `minilm.models.tagger`, whose fields hold NumPy arrays here; gradients come in the
same structure. `cell` names the encoder's (see `minilm.reference.models.encoders`).
"""

import numpy as np

from minilm.reference.crf import crf_log_likelihood, crf_log_likelihood_backward, viterbi
from minilm.reference.linear import linear, linear_backward
from minilm.reference.losses import Metrics, cross_entropy, cross_entropy_backward
from minilm.reference.models import encoders


def apply(params, tokens, length, cell=""):
    """h = encode(tokens);  e = h W + b. Returns (e, saved)."""
    h, saved_h = encoders.apply(params.encoder, tokens, length, cell)
    emissions, saved_e = linear(params.output, h)
    return emissions, (saved_h, saved_e)


def apply_backward(saved, d_emissions):
    """Gradients with respect to (encoder, output): e = h W + b gives d_W, d_b and d_h, and d_h the encoder's."""
    saved_h, saved_e = saved
    d_output, d_h = linear_backward(saved_e, d_emissions)
    return encoders.apply_backward(saved_h, d_h), d_output


def loss(params, batch, cell=""):
    """L = sum_i w_i (-log p_i) / sum_i w_i: over places, or over paths, which weigh what their places do on average.

    Returns ((loss, metrics), saved).
    """
    emissions, saved = apply(params, batch.tokens, batch.length, cell)
    if params.crf is None:
        out, saved_loss = cross_entropy(emissions, batch.tags, without_padding(batch))
    else:
        out, saved_loss = path_loss(params.crf, emissions, batch)
    return out, (params, saved, saved_loss)


def loss_backward(saved, d_loss=1.0):
    """The gradient with respect to params."""
    params, saved, saved_loss = saved
    d_crf = None
    if params.crf is None:
        d_emissions, _, _ = cross_entropy_backward(saved_loss, (d_loss, Metrics(0.0, 0.0, 0.0)))
    else:
        d_crf, d_emissions = path_loss_backward(saved_loss, d_loss)
    d_encoder, d_output = apply_backward(saved, d_emissions)
    return type(params)(encoder=d_encoder, output=d_output, crf=d_crf)


def without_padding(batch):
    """The weights of places, 0 from each text's length on."""
    weights = np.zeros(batch.weights.shape)
    for text in np.ndindex(batch.length.shape):
        weights[text][: batch.length[text]] = batch.weights[text][: batch.length[text]]
    return weights


def path_loss(crf, emissions, batch):
    """L = sum_b v_b (-log p(y_b)) / sum_bt w_bt,  v_b = sum_t w_bt / n_b; texts of no weight are skipped."""
    loss_sum = token_count = correct_count = 0.0
    paths = []
    for text in np.ndindex(batch.length.shape):
        n, y, w = int(batch.length[text]), batch.tags[text], batch.weights[text]
        weight = sum(float(w[t]) for t in range(n))
        if weight:
            log_p, saved = crf_log_likelihood(crf, emissions[text], y, n)
            (best, _), _ = viterbi(crf, emissions[text], n)
            loss_sum -= weight / n * log_p
            token_count += weight
            correct_count += sum(float(w[t]) for t in range(n) if best[t] == y[t])
            paths.append((text, weight / n, saved))
    loss = loss_sum / token_count if token_count else 0.0
    return (loss, Metrics(loss_sum, token_count, correct_count)), (crf, emissions, paths, token_count)


def path_loss_backward(saved, d_loss):
    """Gradients with respect to (crf, emissions).

    L = sum_b v_b (-log p_b) / W   gives  d_log_p_b = -d_L v_b / W; the CRF, read by all paths, adds theirs up.
    """
    crf, emissions, paths, token_count = saved
    d_crf, d_emissions = type(crf)(*(np.zeros(p.shape) for p in crf)), np.zeros(emissions.shape)
    for text, weight, saved_path in paths:
        d_path, d_emissions[text], _, _ = crf_log_likelihood_backward(saved_path, -d_loss * weight / token_count)
        d_crf = type(crf)(*map(np.add, d_crf, d_path))
    return d_crf, d_emissions
