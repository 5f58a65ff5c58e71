"""What each workload must come to, and why: bounds argued from its data and arithmetic. Pure.

Travels to the host: standard library only, Python 3.10. The payload measures
(verify/payload/workloads.py); nothing here is tuned to what it happened to measure. Two arguments
come up again and again:

- **No worse than the nearest neighbour.** Who answers with the label of the nearest of unlimitedly
  many examples errs at most twice as often as the best possible: R <= R* (2 - K / (K - 1) R*) for K
  classes (T. Cover and P. Hart, "Nearest neighbor pattern classification", 1967), and at most twice
  in squared error (T. Cover, "Estimation by the nearest neighbor rule", 1968). R* is known, because
  the data are made. A network that has learnt what there is to be learnt does no worse.
- **Rounding.** A sum of n terms is off by about sqrt(n) units of rounding; such sums follow one
  another (verify/training.py, `gradient_bound`).

A mean over n samples may be off by chance: five deviations are allowed, which one in 1.7 million
passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verify.training import gradient_bound

EPSILON = 2.0**-23
"""Of float32."""
CHANCE = 5
"""Deviations that chance may take."""


class Lacking(Exception):  # noqa: N818 - an answer, not a fault
    """A figure that the claim is about is not in the document."""


@dataclass(frozen=True)
class Held:
    """One thing that was looked at, and whether it holds."""

    what: str
    found: str
    expected: str
    held: bool


class Figures:
    """What a rank measured, read with the type that is wanted. Raises Lacking."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def number(self, name: str) -> float:
        """A figure; NaN for null, which is how JSON says it, so that no bound holds."""
        value = self._of(name)
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Lacking(f"{name} is no number")
        return float(value)

    def numbers(self, name: str) -> list[float]:
        """A list of figures."""
        value = self._of(name)
        if not isinstance(value, list) or any(isinstance(one, str) for one in value):
            raise Lacking(f"{name} is no list of numbers")
        return [math.nan if one is None else float(one) for one in value]

    def counts(self, name: str) -> list[int]:
        """A list of whole numbers from 0 on."""
        found = self.numbers(name)
        if not all(one >= 0 and one == int(one) for one in found if math.isfinite(one)):
            raise Lacking(f"{name} counts nothing")
        if not all(map(math.isfinite, found)):
            raise Lacking(f"{name} has what is no number")
        return [int(one) for one in found]

    def text(self, name: str) -> str:
        """A text."""
        value = self._of(name)
        if not isinstance(value, str):
            raise Lacking(f"{name} is no text")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts, not empty."""
        value = self._of(name)
        if not isinstance(value, list) or not value or not all(isinstance(t, str) for t in value):
            raise Lacking(f"{name} is no list of texts")
        return value

    def yes(self, name: str) -> bool:
        """Yes or no."""
        value = self._of(name)
        if not isinstance(value, bool):
            raise Lacking(f"{name} is neither yes nor no")
        return value

    def _of(self, name: str) -> Any:
        if name not in self.values:
            raise Lacking(f"{name} was not measured")
        return self.values[name]


# ---- forms of a claim


def at_most(what: str, found: float, bound: float) -> Held:
    """From 0 to a bound."""
    return Held(what, shown(found), f"at most {bound:.2g}", 0 <= found <= bound)


def between(what: str, found: float, low: float, high: float) -> Held:
    """Neither below nor above."""
    return Held(what, f"{found:.4f}", f"{low:.4f} to {high:.4f}", low <= found <= high)


def exactly(what: str, found: object, expected: object) -> Held:
    """The very same."""
    return Held(what, shown(found), shown(expected), found == expected)


def same(what: str, found: str, expected: str) -> Held:
    """The same bits, by their digests."""
    word = "the same bits" if found == expected else "other bits"
    return Held(what, word, "the same bits", found == expected)


def shown(value: object) -> str:
    """A value in few characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "not a number" if math.isnan(value) else f"{value:.4g}"
    return str(value)


# ---- models


def linear(of: Figures) -> Iterator[Held]:
    """A least-squares fit over n = 1000 points with noise of variance s2 = 0.5^2 / 3 (uniform)
    has a standard error of sqrt(s2 / n) in the intercept and sqrt(s2 / (n / 3)) in a slope, for
    x from -1 to 1 has a mean square of 1/3. SGD stays in motion about it: with rate r, batch B
    and the mean over d outputs its stationary variance is r s2 / (d B) in each (to the first
    order in r: S. Mandt and others, "Stochastic gradient descent as approximate Bayesian
    inference", 2017). What is left of the start shrinks by 1 - 2 r / (3 d) a step. Five
    deviations of all that together."""
    noise, points, rate, batch = 0.5**2 / 3, 1000, 0.01, 16
    for name, words in (("line", "1 to 1"), ("plane", "8 to 4")):
        outputs, steps = of.number(f"{name}_outputs"), of.number(f"{name}_steps")
        moving = rate * noise / (outputs * batch)
        start = 3 * (1 - 2 * rate / (3 * outputs)) ** steps
        slope = CHANCE * math.sqrt(noise / (points / 3) + moving) + start
        offset = CHANCE * math.sqrt(noise / points + moving) + start
        yield at_most(
            f"slope of {words} apart from the true one", of.number(f"{name}_weight"), slope
        )
        yield at_most(f"intercept of {words} apart from it", of.number(f"{name}_bias"), offset)
    saved, loaded = of.texts("saved"), of.texts("loaded")
    yield same("state after saving and reading back", " ".join(loaded), " ".join(saved))


def on_device(of: Figures, device: str) -> Iterator[Held]:
    """A model that is moved after its optimizer was made, or after training, was trained
    elsewhere."""
    for name in ("line", "plane"):
        yield exactly("device of the parameters as training began", of.text(f"{name}_on"), device)


def mlp(of: Figures) -> Iterator[Held]:
    """The best possible squared error is the variance of the noise, s2 = 0.25; the nearest
    neighbour comes to 2 s2 at most. The target bends at 0: y = 2 relu(z), z normal, whose best
    straight line leaves 1 - 2 / pi = 0.36 beside s2, which is more. So who passes has learnt the
    bend."""
    best = 0.5**2
    chance = CHANCE * of.number("error_deviation") / math.sqrt(_at_least_1(of, "samples"))
    found = of.number("error")
    yield between("squared error on new data", found, best - chance, 2 * best + chance)


def classifier(of: Figures) -> Iterator[Held]:
    """With probability q a label is any of K classes, so the best possible errs in R* = q (K -
    1) / K, and by what the noise hides: two classes whose pictures are d deviations apart are
    taken for one another with probability Q(d / 2), each with K - 1 others (union bound).
    Accuracy lies between what the nearest neighbour reaches with that and 1 - R*, but for
    chance.

    Recall and F1 are computed again here from the confusion matrix, in fractions."""
    classes = int(of.number("classes"))
    flat = of.counts("confusion")
    if not 2 <= classes <= 100 or len(flat) != classes * classes or not sum(flat):
        raise Lacking("confusion is no matrix of that many classes")
    matrix = [flat[row * classes : (row + 1) * classes] for row in range(classes)]
    drawn = 0.1 * (classes - 1) / classes
    hidden = 0.0
    if "nearest" in of:
        half = of.number("nearest") / 2
        hidden = (classes - 1) * math.erfc(half / math.sqrt(2)) / 2
    best = drawn + hidden
    neighbour = best * (2 - classes / (classes - 1) * best)
    total = sum(flat)
    low = 1 - neighbour - CHANCE * math.sqrt(neighbour * (1 - neighbour) / total)
    high = 1 - drawn + CHANCE * math.sqrt(drawn * (1 - drawn) / total)
    accuracy, recall, f1 = scores(matrix)
    yield between("accuracy on new data", float(accuracy), low, high)
    for name, exact in (("accuracy", accuracy), ("recall", recall), ("f1", f1)):
        apart = abs(of.number(name) - float(exact))
        yield at_most(f"{name} as reported, apart from the exact one", apart, 1e-9)


def scores(matrix: list[list[int]]) -> tuple[Fraction, Fraction, Fraction]:
    """Accuracy, and the plain means of recall and F1 over the classes that have labels: exact."""
    size = range(len(matrix))
    said = [sum(row[one] for row in matrix) for one in size]
    here = [one for one in size if sum(matrix[one])]
    accuracy = Fraction(sum(matrix[one][one] for one in size), sum(map(sum, matrix)))
    recalls = [Fraction(matrix[one][one], sum(matrix[one])) for one in here]
    f1s = [Fraction(2 * matrix[one][one], sum(matrix[one]) + said[one]) for one in here]
    return accuracy, sum(recalls, Fraction()) / len(here), sum(f1s, Fraction()) / len(here)


def cnn_mnist(of: Figures) -> Iterator[Held]:
    """What the log-softmax gives are logarithms of probabilities: they add up to 1 but for
    rounding. The sum of K exponentials is off by K units; a logarithm of p by |log p| units,
    which weighted with p is log K at most, twice; each function itself by two units of the last
    place."""
    yield from classifier(of)
    bound = 2 * EPSILON * (10 + 2 * math.log(10) + 2)
    apart = of.number("probability_off")
    yield at_most("probabilities of an image, their sum apart from 1", apart, bound)


def cnn_mnist_2(of: Figures) -> Iterator[Held]:
    """The cross-entropy of n logits of size L at most, in float32 beside float64: each of the n
    losses is a sum of K exponentials of numbers up to 2 L, and the mean a sum of n; all roundings
    the same way would be (K + n + 4) (2 L + log K) units, each function two units."""
    yield from classifier(of)
    size = 2 * of.number("largest_logit") + math.log(10)
    bound = 2 * EPSILON * (10 + of.number("loss_samples") + 4) * size
    yield at_most("cross-entropy of the logits apart from float64's", of.number("loss_off"), bound)


def lstm(of: Figures) -> Iterator[Held]:
    """The class is told by the first token and asked after the last, so it must be remembered.
    What else is in the batch must not matter: a network that takes the batch for time fails that
    by much, a right one within the rounding of its sums, all in one direction at worst."""
    yield from classifier(of)
    bound = EPSILON * sum(of.counts("sums"))
    apart = of.number("alone_apart")
    yield at_most("answers to sequences one by one, apart from those in a batch", apart, bound)


def transformer(of: Figures) -> Iterator[Held]:
    """The loss is compared with that of the best predictor on the same texts, so that the chance in
    the texts cancels; nobody is below it. Above it by at most what costs to know the rule, and to
    take the noise for twice what it is: the divergence of the two, 0.087 nats. Who has not learnt
    the rule is 2.3 nats above."""
    deviation, samples = of.number("above_deviation"), _at_least_1(of, "samples")
    chance = CHANCE * deviation / math.sqrt(samples)
    most = mistaken_noise(32, 0.2, 0.4) + chance
    yield between("nats per symbol above the entropy", of.number("above"), -chance, most)


def mistaken_noise(symbols: int, noise: float, taken: float) -> float:
    """What it costs, in nats per symbol, to take the noise of the language for another one."""

    def chances(of: float) -> tuple[float, float]:
        return 1 - of + of / symbols, of / symbols

    (likely, other), (mine, others) = chances(noise), chances(taken)
    return likely * math.log(likely / mine) + (symbols - 1) * other * math.log(other / others)


def finetune(of: Figures) -> Iterator[Held]:
    """Who knows nothing of a rule that names one of S followers for each of S symbols must get
    to know S log S nats, and every predictor pays for them in the losses on its way, on average
    over all rules (the redundancy of a code: J. Rissanen, 1984). The pretrained model knows all
    but the c followers that changed. So over T symbols seen once it must be better than training
    from scratch by (S - c) log S / T nats each: what need not be learnt again. Both see the same
    texts.

    Frozen is frozen: not one bit of it moves; an adapter at first adds exactly 0. Early stopping
    is computed again from the losses: it ends when the best is `patience` epochs ago, and not
    before."""
    yield same("pretrained state read back", of.text("loaded"), of.text("saved"))
    symbols, tokens = of.number("symbols"), _at_least_1(of, "tokens")
    margin = (symbols - of.number("changed")) * math.log(max(2.0, symbols)) / tokens
    scratch = of.number("scratch_loss")
    for name, words in (
        ("whole", "the whole model"),
        ("frozen", "a frozen trunk"),
        ("adapters", "low-rank adapters"),
    ):
        better = scratch - of.number(f"{name}_loss")
        what = f"{words}: nats per symbol better than from scratch"
        yield Held(what, shown(better), f"at least {margin:.2g}", better >= margin)
    yield same("frozen trunk after training", of.text("trunk_after"), of.text("trunk_before"))
    yield exactly("the head above the frozen trunk moved", of.yes("head_moved"), True)
    yield exactly("elements that fresh adapters change", of.number("adapters_add"), 0.0)
    yield same("weights under the adapters", of.text("base_after"), of.text("base_before"))
    losses, most = of.numbers("epochs"), int(of.number("most_epochs"))
    wanted = stops(losses, int(of.number("patience")), most)
    yield exactly("epoch at which training stopped early", len(losses), wanted)
    yield exactly("it stopped before the last epoch allowed", len(losses) < most, True)
    back = abs(of.number("put_back") - min(losses, default=math.nan))
    yield at_most("loss of the state put back, apart from the best", back, EPSILON * 2048)
    yield exactly("pairs that augmentation made up", of.number("strange_pairs"), 0.0)
    windows, pool = of.number("windows"), of.number("pool")
    yield Held("different windows", shown(windows), f"more than {pool:.0f}", windows > pool)


def stops(losses: list[float], patience: int, most: int) -> int:
    """After how many epochs early stopping ends a training with these losses, at most `most`. One
    more than there are losses when they do not tell."""
    best, since = math.inf, 0
    for epoch, loss in enumerate(losses, 1):
        best, since = (loss, 0) if loss < best else (best, since + 1)
        if since > patience or epoch >= most:
            return epoch
    return len(losses) + 1


# ---- techniques


def batch_norm(of: Figures) -> Iterator[Held]:
    """Statistics over n values are off by sqrt(n) units, twice (mean and variance), and the
    formula by eight roundings. The data have mean 2 and deviation 3; after one batch the running
    mean is 0.2 and the running variance 0.9 + 0.9, so evaluation scales by 3 / 1.34 = 2.24 and
    shifts by 1.34 what training gives: sqrt(1.24^2 + 1.34^2) = 1.83 of the scale, which is 0.5
    at least beside a shift of 1 at most: the outputs of both modes are apart by 1.83 * 0.5 /
    sqrt(0.25 + 1) = 0.8 at least."""
    statistics = EPSILON * (2 * math.sqrt(_at_least_1(of, "count")) + 8)
    formula = 16 * EPSILON
    yield at_most("training mode apart from the batch's own", of.number("train_apart"), statistics)
    yield at_most("running mean apart", of.number("kept_mean_apart"), statistics)
    yield at_most("running variance apart", of.number("kept_variance_apart"), statistics)
    yield at_most("evaluation apart from the kept statistics", of.number("eval_apart"), formula)
    yield at_most("a sample alone apart from it in a batch", of.number("eval_alone"), formula)
    yield exactly("evaluation keeps the statistics as they are", of.yes("eval_kept"), True)
    apart = of.number("modes_apart")
    yield Held("the two modes apart", shown(apart), "at least 0.8", apart >= 0.8)


def host_copy(of: Figures) -> Iterator[Held]:
    """A copy is exact: whole numbers there, one added, and back."""
    yield exactly("wrong elements after pinned copies there and back", of.number("wrong"), 0.0)
    yield exactly("memory was pinned", of.yes("pinned"), True)
    yield Held("elements copied", shown(of.number("copied")), "some", of.number("copied") > 0)


def amp(of: Figures) -> Iterator[Held]:
    """A gradient of 2^-30 is below the least number of float16, 2^-24: unscaled it is 0. Scaled by
    2^16 it is 2^-14, exact, and four of them give 2^-28 once it is taken back: powers of two do not
    round. The scale's way is computed again: doubled after `growth` good steps, halved with every
    step that was skipped; the one with the overflow that was put in is skipped."""
    yield exactly("type of a product under autocast", of.text("dtype"), "torch.float16")
    yield exactly("gradient of 2^-30 without scaling", of.number("unscaled_gradient"), 0.0)
    yield exactly("the same with scaling", of.number("scaled_gradient"), 2.0**-28)
    scales, moved = of.numbers("scales"), of.counts("moved")
    at, growth = int(of.number("overflow")), int(of.number("growth"))
    if not 0 <= at < len(moved) or len(scales) != len(moved) + 1 or growth < 1:
        raise Lacking("the scales do not tell of every step")
    yield exactly("parameters after the overflow", "moved" if moved[at] else "kept", "kept")
    yield exactly("scale after the overflow", scales[at + 1], scales[at] / 2)
    strange = [
        one for one, two in zip(scales, scaled(scales[0], moved, growth), strict=True) if one != two
    ]
    yield exactly("steps whose scale is not the one that follows", len(strange), 0)
    yield from classifier(of)


def scaled(first: float, moved: list[int], growth: int) -> list[float]:
    """The scale before the first step and after each, by the rule of GradScaler."""
    found, good = [first], 0
    for step in moved:
        good = good + 1 if step else 0
        factor = 0.5 if not step else 2.0 if good == growth else 1.0
        good = 0 if good == growth else good
        found.append(found[-1] * factor)
    return found


def compiled(of: Figures) -> Iterator[Held]:
    """The same sums in another order: both are the exact result with roundings."""
    bound = gradient_bound({"sums": of.counts("sums"), "ranks": 1}, EPSILON)
    yield at_most("output apart from the plain model's", of.number("output_apart"), bound)
    yield at_most("gradients apart from them", of.number("gradient_apart"), bound)
    made = of.number("kernels")
    yield Held("libraries and kernels that the compiler made", shown(made), "some", made > 0)


def quantise(of: Figures) -> Iterator[Held]:
    """A weight rounded to a step s is off by s / 2, an input rounded to a step t by t at most
    (its zero is rounded too): a sum of w x is off by sum |w| t + sum (|x| + t) s / 2 at most.
    The payload takes that of each output; none may exceed it. The step is the largest weight by
    127 to 128."""
    yield exactly("type of the weights", of.text("weight_type"), "torch.qint8")
    yield at_most("largest error, as a part of its bound", of.number("of_bound"), 1.0)
    largest = of.number("largest_weight")
    step = of.number("step")
    held = largest / 128 * (1 - EPSILON) <= step <= largest / 127 * (1 + EPSILON)
    expected = f"{largest / 128:.6f} to {largest / 127:.6f}"
    yield Held("step of the weights", f"{step:.6f}", expected, held)
    yield from classifier(of)


def prune(of: Figures) -> Iterator[Held]:
    """Half of the weights exactly, the smallest ones, and they stay 0 while the others train on; at
    the end the mask is part of the weights, and not one output changes by that."""
    half = round(0.5 * of.number("weights"))
    yield exactly("weights that are zero", of.number("zeros"), float(half))
    smallest = of.number("smallest_kept")
    yield at_most("largest weight taken away", of.number("largest_pruned"), smallest)
    yield exactly("weights that grew again", of.number("regrown"), 0.0)
    yield exactly("weights that are zero after training", of.number("zeros_after"), float(half))
    trained = of.number("moved")
    yield Held("other weights that moved", shown(trained), "some", trained > 0)
    yield exactly("the mask is permanent", of.yes("permanent"), True)
    yield exactly("outputs that this changed", of.number("changed_outputs"), 0.0)
    yield from classifier(of)


def checkpoint(of: Figures) -> Iterator[Held]:
    """With parameters, optimizer, schedule and random state as they were, every step computes the
    same: deterministic algorithms are asked for, so the bits are the same."""
    yield same("state read back", of.text("loaded"), of.text("saved"))
    yield same("state after going on from it", of.text("continued"), of.text("ended"))
    apart = len({of.text("start"), of.text("saved"), of.text("ended")})
    yield exactly("states at start, checkpoint and end that differ", apart, 3)


def data_parallel(of: Figures) -> Iterator[Held]:
    """All that comes up is a whole number below 2^24, which float32 holds exactly: no order of
    adding gives another bit."""
    yield exactly("wrong outputs", of.number("wrong_outputs"), 0.0)
    yield exactly("wrong gradients", of.number("wrong_gradients"), 0.0)
    found = of.number("compared")
    yield Held("elements compared", shown(found), "some", found > 0)
    used = of.number("gpus")
    yield Held("GPUs that the batch is split over", shown(used), "at least 2", used >= 2)


def ddp(of: Figures) -> Iterator[Held]:
    """Gradients of two halves, the first not synchronised, are those of the whole batch in one
    process, within rounding. SyncBatchNorm normalises by all ranks' batches, where there are
    GPUs."""
    ranks = {"sums": of.counts("sums"), "ranks": of.number("world")}
    bound = gradient_bound(ranks, EPSILON)
    yield at_most("gradient apart from a single process's", of.number("gradient_apart"), bound)
    if "sync_apart" in of:
        most = EPSILON * (2 * math.sqrt(_at_least_1(of, "sync_count")) + 8)
        yield at_most("SyncBatchNorm apart from one batch", of.number("sync_apart"), most)
    yield from classifier(of)


def fsdp2(of: Figures) -> Iterator[Held]:
    """After one step of SGD with rate r the parameters p are apart by r times what the gradients
    g are apart (at most their bound), and by one rounding: (r bound |g|) / |p| + epsilon. A rank
    holds its share of each tensor, rounded up to whole rows: less than twice its share of all.
    Then it learns the language: half-way at least from a guess (log S) to the entropy."""
    world = _at_least_1(of, "world")
    gradient = gradient_bound({"sums": of.counts("sums"), "ranks": world}, EPSILON)
    step = of.number("rate") * gradient * of.number("gradient_norm")
    bound = step / of.number("parameter_norm") + EPSILON
    apart = of.number("parameters_apart")
    yield at_most("parameters after a step apart from the whole model's", apart, bound)
    share = of.number("mine") * world / _at_least_1(of, "whole")
    yield between("parameters on this rank, by its share of them", share, 1 / 64, 2.0)
    entropy, deviation = entropy_of(32, 0.2)
    low = entropy - CHANCE * deviation / math.sqrt(_at_least_1(of, "samples"))
    yield between("loss after training", of.number("last"), low, (entropy + math.log(32)) / 2)


def entropy_of(symbols: int, noise: float) -> tuple[float, float]:
    """Of what follows a symbol, in nats, and the deviation of the best loss from place to place."""
    likely, other = 1 - noise + noise / symbols, noise / symbols
    losses = ((likely, -math.log(likely)), ((symbols - 1) * other, -math.log(other)))
    mean = sum(chance * loss for chance, loss in losses)
    return mean, math.sqrt(sum(chance * (loss - mean) ** 2 for chance, loss in losses))


def _at_least_1(of: Figures, name: str) -> float:
    value = of.number(name)
    if not value >= 1:
        raise Lacking(f"{name} is {shown(value)}")
    return value


CLAIMS: dict[str, Callable[[Figures], Iterator[Held]]] = {
    "linear": linear,
    "mlp": mlp,
    "cnn-mnist": cnn_mnist,
    "cnn-mnist-2": cnn_mnist_2,
    "cnn-cifar": classifier,
    "lstm": lstm,
    "transformer": transformer,
    "finetune": finetune,
    "batch-norm": batch_norm,
    "host-copy": host_copy,
    "amp": amp,
    "compile": compiled,
    "quantise": quantise,
    "prune": prune,
    "checkpoint": checkpoint,
    "data-parallel": data_parallel,
    "ddp": ddp,
    "fsdp2": fsdp2,
}
"""Workload -> what must hold of the figures of each rank."""
ALIKE = {"ddp": "parameters", "fsdp2": "parameters"}
"""Workloads of ranks that work together -> the digest that all of them share."""
