"""Makes losses.json: what transformers' RagSequenceForGeneration and RagTokenForGeneration make of random
logits and document scores, with the gradients that autograd finds.

  python make.py      (torch 2.15, transformers 5.23; seed 3)

Each case: scores [k]; token_losses [k][T], the -log-probabilities of the target's tokens; of "sequence"
and "token" the loss, score_gradients [k] and token_weights [k][T]. Float64.
get_nll() of RAG-Sequence adds log p(z|x) to the second token of a row, and masks rows past the target: a
target of one token would lose p(z|x). The targets here have two tokens and more.
"""
import json
import os
from types import SimpleNamespace

import torch
from transformers import RagSequenceForGeneration, RagTokenForGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB, PAD, BOS = 11, 1, 0


def run(family, log_p, scores, target):
    """log_p [k, T + 1, V]: log-softmax again leaves log-probabilities as they are."""
    k = scores.shape[0]
    model = SimpleNamespace(
        config=SimpleNamespace(n_docs=k, bos_token_id=BOS,
                               generator=SimpleNamespace(pad_token_id=PAD, bos_token_id=BOS)))
    model.marginalize = lambda *args: RagTokenForGeneration.marginalize(model, *args)
    return family.get_nll(model, log_p, scores.unsqueeze(0), target.unsqueeze(0), n_docs=k).sum()


def make_case(k, tokens, spread):
    logits = torch.randn(k, tokens + 1, VOCAB, dtype=torch.float64) * spread
    scores = (torch.randn(k, dtype=torch.float64) * spread).requires_grad_()
    answer = torch.randint(2, VOCAB, (tokens,))
    target = torch.cat([torch.tensor([BOS]), answer])
    base = torch.log_softmax(logits, dim=-1)
    token_losses = -base[:, :tokens].gather(-1, answer.expand(k, tokens).unsqueeze(-1)).squeeze(-1)
    case = {"scores": scores.tolist(), "token_losses": token_losses.tolist()}
    for name, family in (("sequence", RagSequenceForGeneration), ("token", RagTokenForGeneration)):
        # Derivatives with respect to the tokens' losses alone, the rest of the distribution held.
        moved = torch.zeros(k, tokens, dtype=torch.float64, requires_grad=True)
        one_hot = torch.nn.functional.one_hot(answer, VOCAB).double()
        shift = torch.cat([-moved.unsqueeze(-1) * one_hot, torch.zeros(k, 1, VOCAB, dtype=torch.float64)], dim=1)
        original = torch.nn.functional.log_softmax
        torch.nn.functional.log_softmax = lambda x, dim: x if dim == -1 else original(x, dim=dim)
        try:
            loss = run(family, base + shift, scores, target)
        finally:
            torch.nn.functional.log_softmax = original
        score_gradients, token_weights = torch.autograd.grad(loss, [scores, moved])
        case[name] = {"loss": loss.item(), "score_gradients": score_gradients.tolist(),
                      "token_weights": token_weights.tolist()}
    return case


def main():
    torch.manual_seed(3)
    cases = [make_case(k, tokens, spread) for k, tokens, spread in ((2, 2, 1.0), (5, 4, 1.0), (3, 7, 2.0))]
    with open(os.path.join(HERE, "losses.json"), "w") as file:
        json.dump(cases, file)
        file.write("\n")


main()
