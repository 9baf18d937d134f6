#pragma once

#include <string>
#include <vector>

namespace quarry {

// Losses of one question x with its target y = y_1 .. y_T and k passages z, in double precision.
// The retriever's part is p(z|x) = softmax(scores / temperature) over these k, the generator's the
// log-probability of each target token with one passage in its prompt.
struct MarginalInputs {
  std::vector<double> scores;                     // [k] of the retriever
  std::vector<std::vector<double>> token_losses;  // [k][T]: -log p(y_i | x, z, y_<i), in nats
  double temperature = 1.0;                       // of the retriever's softmax, > 0
  double teacher_temperature = 1.0;               // of pdist_loss's, > 0
};

struct MarginalLoss {
  double loss = 0.0;              // in nats
  std::vector<double> prior;      // [k]: p(z|x)
  std::vector<double> posterior;  // [k]: p(z|x,y); of RAG-Token the mean over the tokens
  // [k][T]: derivative of the loss with respect to token_losses, which is the weight of each in a
  // backward pass through the generator.
  std::vector<std::vector<double>> token_weights;
  std::vector<double> score_gradients;  // [k]: derivative with respect to scores; sums to 0
};

// All throw kInvalidArgument: no passage, no target token, lists of different lengths, a
// temperature that is not positive.

// RAG-Sequence (Lewis et al. 2020, arXiv:2005.11401): -log sum_z p(z|x) prod_i p(y_i|x,z,y_<i).
//   token_weights[z][i] = p(z|x,y)    score_gradients[z] = (p(z|x) - p(z|x,y)) / temperature
MarginalLoss rag_sequence_loss(const MarginalInputs& inputs);

// RAG-Token (the same paper): -sum_i log sum_z p(z|x) p(y_i|x,z,y_<i). The same with a posterior
// p(z|x,y_<=i) for each token; score_gradients sum over the tokens.
MarginalLoss rag_token_loss(const MarginalInputs& inputs);

// REPLUG LSR (Shi et al. 2023, arXiv:2301.12652): the divergence KL(p(z|x) || q) of the retriever
// from q = softmax_z(log p(y|x,z)), which stands in `posterior`. The generator learns nothing:
// token_weights are 0.
MarginalLoss replug_lsr_loss(const MarginalInputs& inputs);

// Perplexity distillation, PDist of Atlas (Izacard et al. 2022, arXiv:2208.03299): the divergence
// KL(q || p(z|x)) from q = softmax_z(mean_i log p(y_i|x,z,y_<i) / teacher_temperature), which
// stands in `posterior`. Beside REPLUG LSR the divergence is the other way round, which makes the
// retriever cover all that helps, and a likelihood is that of a token, so that q does not sharpen
// with the length of the answer. The generator learns nothing.
//   score_gradients[z] = (p(z|x) - q(z)) / temperature
MarginalLoss pdist_loss(const MarginalInputs& inputs);

// -sum p log p, in nats.
double entropy(const std::vector<double>& probabilities);

}  // namespace quarry
