"""The divergence and the cross-entropy against dense float64, and what must not change a result."""

import itertools
import math

import pytest
import torch
from textbook import dense_rows
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdutils import losses
from kdutils.head import Head
from kdutils.losses import sequence_mean_weights, shifted
from kdutils.noise import LogitNoise, gaussian_noise, noise_keys, random_bits

N, V, STUDENT_WIDTH, TEACHER_WIDTH = 7, 37, 5, 8
STUDENT_ROWS, TEACHER_ROWS = V + 3, V + 9  # both heads have padding rows, the teacher more of them
KINDS = [("forward_kl", None), ("reverse_kl", None), ("jsd", 0.1), ("jsd", 0.5), ("jsd", 0.9)]
TEMPERATURES = [0.5, 1.0, 2.0, 5.0]
FP32_RELATIVE = 1e-5  # stated rounding of a float32 run against float64 on the same inputs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(n=N, dtype=torch.float32, seed=0, scale=1.0):
    """Student hidden, student head, teacher hidden, teacher head; logits of standard deviation 2 to 3."""
    rng = generator(seed)
    shapes = [
        (n, STUDENT_WIDTH),
        (STUDENT_ROWS, STUDENT_WIDTH),
        (n, TEACHER_WIDTH),
        (TEACHER_ROWS, TEACHER_WIDTH),
    ]
    return [scale * torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]


def divergence(hidden, head, teacher_hidden, teacher_head, **options):
    """`losses.divergence` of plain heads."""
    return losses.divergence(hidden, Head(head), teacher_hidden, Head(teacher_head), **options)


def cross_entropy(hidden, head, targets, **options):
    """`losses.cross_entropy` of a plain head."""
    return losses.cross_entropy(hidden, Head(head), targets, **options)


def settings(kind="jsd", beta=None, **others):
    defaults = {"temperature": 1.0, "vocabulary_size": V, "scale_by_temperature_squared": False}
    return defaults | {"kind": kind, "beta": 0.5 if kind == "jsd" and beta is None else beta} | others


def entropy(beta):
    return -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)


def run(tensors, *, head_grad=True, **options):
    """(total, gradient by student hidden, gradient by student head)."""
    hidden, head, *teacher = [x.clone() for x in tensors]
    hidden.requires_grad_()
    head.requires_grad_(head_grad)
    loss = divergence(hidden, head, *teacher, **settings(**options))
    loss.total.backward()
    return loss.total.detach(), hidden.grad, head.grad


def run_dense(tensors, *, kind, beta=None, temperature=1.0, noise=0.0, weights=1.0):
    hidden, head, teacher_hidden, teacher_head = [x.detach().double().clone() for x in tensors]
    hidden.requires_grad_()
    head.requires_grad_()
    teacher_logits = teacher_hidden @ teacher_head[:V].T + noise
    total = (weights * dense_rows(hidden @ head[:V].T, teacher_logits, kind, beta, temperature)).sum()
    total.backward()
    return total.detach(), hidden.grad, head.grad


def assert_near(found, expected, relative):
    """Difference in norm, relative to the norm of what is expected."""
    for have, want in zip(found, expected, strict=True):
        difference = (have.double() - want.double()).norm()
        assert difference <= relative * want.double().norm() + 1e-300, (
            f"{difference / want.double().norm():.2e}"
        )


def noise_of(n=N, sigma=1.0, seed=3):
    return LogitNoise(noise_keys(seed, [f"item-{i}" for i in range(n)], range(n)), sigma)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    n_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.n_elements = max(self.n_elements, leaf.numel())
        return result


# --- what the numbers mean ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_equal_to_its_teacher_has_loss_and_gradient_exactly_zero(kind, beta, temperature, dtype):
    hidden, head, *_ = pair(dtype=dtype)
    total, *gradients = run([hidden, head, hidden, head], kind=kind, beta=beta, temperature=temperature)
    assert total == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_forward_kl_covers_both_modes_and_reverse_kl_seeks_one():
    teacher = torch.tensor([[0.49, 0.49, 0.01, 0.01]])
    one_mode = torch.tensor([[0.96, 0.01, 0.015, 0.015]])
    all_tokens = torch.full((1, 4), 0.25)

    def loss(kind, student):
        options = settings(kind, vocabulary_size=4)
        return float(divergence(student.log(), torch.eye(4), teacher.log(), torch.eye(4), **options).total)

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p[0].tolist(), q[0].tolist(), strict=True))

    assert loss("forward_kl", all_tokens) < loss("forward_kl", one_mode)
    assert loss("reverse_kl", one_mode) < loss("reverse_kl", all_tokens)
    for student in (one_mode, all_tokens):
        assert loss("forward_kl", student) == pytest.approx(kl(teacher, student), rel=1e-6)
        assert loss("reverse_kl", student) == pytest.approx(kl(student, teacher), rel=1e-6)


@pytest.mark.parametrize(("beta", "end"), [(1e-4, "forward_kl"), (1 - 1e-4, "reverse_kl")])
def test_jsd_over_beta_times_one_minus_beta_tends_to_the_kls(beta, end):
    tensors = pair(dtype=torch.float64, scale=0.5)
    found = run(tensors, kind="jsd", beta=beta)
    expected = run(tensors, kind=end)
    assert_near([x / (beta * (1 - beta)) for x in found], expected, 1e-3)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_stays_between_zero_and_the_entropy_of_beta(beta):
    for scale in (1e-4, 1e-2, 1.0, 30.0):
        total, *_ = run(pair(scale=scale, n=1), kind="jsd", beta=beta)
        assert -1e-9 < total <= entropy(beta) * (1 + 1e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_almost_equal_models_keep_their_digits(kind, beta):
    rng, vocabulary = generator(), 20_000
    head = torch.randn(vocabulary, 16, generator=rng)
    hidden = torch.randn(8, 16, generator=rng)
    near = hidden + 2e-4 * torch.randn(hidden.shape, generator=rng)
    total = divergence(near, head, hidden, head, **settings(kind, beta, vocabulary_size=vocabulary)).total
    logits = (x.double() @ head.double().T for x in (near, hidden))
    expected = dense_rows(*logits, kind, beta, 1.0).sum()
    assert abs(total - expected) < 1e-8 * len(hidden)  # a plain sum of p log(p / q) is off by 5e-8 a row


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_probabilities_that_underflow_give_finite_values_and_gradients(kind, beta):
    logits = torch.tensor([[0.0, 500.0, -500.0], [0.0, 0.0, 1e4]])
    opposite = torch.tensor([[500.0, 0.0, -500.0], [1e4, 0.0, 0.0]])
    hidden = logits.clone().requires_grad_()
    options = settings(kind, beta, vocabulary_size=3)
    loss = divergence(hidden, torch.eye(3), opposite, torch.eye(3), **options)
    loss.total.backward()
    assert loss.total.isfinite()
    assert hidden.grad.isfinite().all()
    disjoint = 500 + 1e4  # each model puts everything on a token that is e^-500 or e^-10000 to the other
    expected = disjoint if beta is None else 2 * entropy(beta)
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-6)


def test_nan_is_not_hidden():
    hidden, *others = pair()
    hidden[2, 0] = math.nan
    assert divergence(hidden, *others, **settings("forward_kl")).total.isnan()


# --- against dense float64 ------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 2.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("kind", "beta"), KINDS)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, FP32_RELATIVE), (torch.float64, 1e-12)])
def test_value_and_gradients_equal_the_dense_reference(kind, beta, temperature, sigma, dtype, relative):
    tensors = pair(dtype=dtype)
    noise = noise_of(sigma=sigma)
    found = run(
        tensors, kind=kind, beta=beta, temperature=temperature, teacher_noise=noise, budget_bytes=1000
    )
    drawn = sigma * gaussian_noise(noise.keys, V).double()
    assert_near(
        found, run_dense(tensors, kind=kind, beta=beta, temperature=temperature, noise=drawn), relative
    )


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_temperature_squared_multiplies_value_and_gradients_alike(kind, beta):
    options = {"kind": kind, "beta": beta, "temperature": 3.0}
    plain = run(pair(), **options)
    scaled = run(pair(), **options, scale_by_temperature_squared=True)
    assert_near(scaled, [9 * x for x in plain], 1e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_gradcheck(kind, beta):
    hidden, head, *teacher = pair(n=3, dtype=torch.float64)

    def total(hidden, head):
        options = settings(kind, beta, temperature=2.0, scale_by_temperature_squared=True, budget_bytes=1)
        return divergence(hidden, head, *teacher, **options).total

    assert torch.autograd.gradcheck(total, (hidden.requires_grad_(), head.requires_grad_()))


def test_gradcheck_of_cross_entropy():
    hidden, head, *_ = pair(n=3, dtype=torch.float64)
    targets = torch.tensor([0, V - 1, 5])
    inputs = (hidden.requires_grad_(), head.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda *x: cross_entropy(*x, targets, vocabulary_size=V, budget_bytes=1).total, inputs
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, FP32_RELATIVE), (torch.float64, 1e-12)])
def test_cross_entropy_equals_torchs(dtype, relative, weighted):
    hidden, head, *_ = pair(dtype=dtype)
    targets = torch.randint(V, (N,), generator=generator())
    weights = torch.rand(N, generator=generator()) if weighted else None
    hidden.requires_grad_()
    head.requires_grad_()
    loss = cross_entropy(hidden, head, targets, vocabulary_size=V, weights_N=weights, budget_bytes=500)
    loss.total.backward()
    reference_inputs = [x.detach().double().requires_grad_() for x in (hidden, head)]
    rows = F.cross_entropy(reference_inputs[0] @ reference_inputs[1][:V].T, targets, reduction="none")
    reference = (rows * (1.0 if weights is None else weights)).sum()
    reference.backward()
    found = [loss.total.detach(), hidden.grad, head.grad]
    assert_near(found, [reference.detach(), *(x.grad for x in reference_inputs)], relative)
    assert loss.n_tokens == N


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_weights_multiply_each_position(kind, beta):
    weights = torch.rand(N, generator=generator())
    found = run(pair(), kind=kind, beta=beta, weights_N=weights, budget_bytes=1000)
    assert_near(found, run_dense(pair(), kind=kind, beta=beta, weights=weights.double()), FP32_RELATIVE)


def test_sequence_mean_weights_give_the_mean_of_each_sequences_mean():
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    values = torch.rand(mask.shape, generator=generator())
    expected = sum(values[b][mask[b]].mean() for b in (0, 1, 3))
    assert torch.allclose((values[mask] * sequence_mean_weights(mask)).sum(), expected)


def test_upstream_gradients_are_applied_and_a_retained_graph_can_be_used_twice():
    hidden, *others = pair()
    hidden.requires_grad_()
    loss = divergence(hidden, *others, **settings("forward_kl"))
    (once,) = torch.autograd.grad(loss.total, hidden, retain_graph=True)
    (share,) = torch.autograd.grad(loss.total / loss.n_tokens, hidden)
    assert torch.allclose(share * N, once)


def test_a_second_derivative_is_refused():
    hidden, *others = pair()
    hidden.requires_grad_()
    total = divergence(hidden, *others, **settings("forward_kl")).total
    (gradient,) = torch.autograd.grad(total**2, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- heads with a bias, a scale, a soft cap -------------------------------------------------------------

AFTER = {  # what is left out is plain
    "bias": {"bias_V": True},
    "scale": {"scale": 0.25},
    "cap": {"soft_cap": 2.5},
    "all": {"bias_V": True, "scale": 0.5, "soft_cap": 2.0},
}


def a_head(weight_VH, after, seed):
    """A head that trains, with what `after` names."""
    rng = generator(seed)
    bias_V = torch.randn(len(weight_VH), generator=rng, dtype=torch.float64) if "bias_V" in after else None
    bias_V = None if bias_V is None else bias_V.to(weight_VH.dtype).requires_grad_()
    return Head(weight_VH.clone().requires_grad_(), **(after | {"bias_V": bias_V}))


def dense_logits(hidden, head):
    """Written out once more, over the tokenizer's entries."""
    logits = hidden @ head.weight_VH[:V].T
    logits = head.scale * (logits if head.bias_V is None else logits + head.bias_V[:V])
    return logits if head.soft_cap is None else head.soft_cap * torch.tanh(logits / head.soft_cap)


def in_float64(head):
    """The head with copies of its tensors that train."""
    weight, bias = (None if x is None else x.detach().double().requires_grad_() for x in head[:2])
    return head._replace(weight_VH=weight, bias_V=bias)


def with_gradients(total, hidden, head):
    """The total and its gradients by hidden states, weights and bias."""
    inputs = [x for x in (hidden, head.weight_VH, head.bias_V) if x is not None]
    return [total.detach(), *torch.autograd.grad(total, inputs)]


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("teacher_after", [{}, *AFTER.values()], ids=["plain", *AFTER])
@pytest.mark.parametrize("student_after", [{}, *AFTER.values()], ids=["plain", *AFTER])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_divergence_of_any_heads_equals_the_dense_reference(
    kind, beta, student_after, teacher_after, dtype, relative
):
    hidden, weight, teacher_hidden, teacher_weight = pair(dtype=dtype)
    hidden.requires_grad_()
    head, teacher_head = a_head(weight, student_after, 1), a_head(teacher_weight, teacher_after, 2)
    noise, weights = noise_of(), torch.rand(N, generator=generator())
    more = {"temperature": 2.0, "teacher_noise": noise, "weights_N": weights, "budget_bytes": 1000}
    loss = losses.divergence(hidden, head, teacher_hidden, teacher_head, **settings(kind, beta, **more))
    found = with_gradients(loss.total, hidden, head)
    wide_hidden, wide_head = hidden.detach().double().requires_grad_(), in_float64(head)
    teacher_logits = dense_logits(teacher_hidden.double(), in_float64(teacher_head))
    teacher_logits = teacher_logits + gaussian_noise(noise.keys, V).double()
    rows = dense_rows(dense_logits(wide_hidden, wide_head), teacher_logits, kind, beta, 2.0)
    assert_near(found, with_gradients((weights.double() * rows).sum(), wide_hidden, wide_head), relative)


@pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float32, FP32_RELATIVE), (torch.float64, 1e-12), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_cross_entropy_of_any_head_equals_the_dense_reference(after, dtype, relative):
    hidden, weight, *_ = pair(dtype=dtype)
    hidden.requires_grad_()
    head, targets = a_head(weight, after, 1), torch.randint(V, (N,), generator=generator())
    loss = losses.cross_entropy(hidden, head, targets, vocabulary_size=V, budget_bytes=500)
    found = with_gradients(loss.total, hidden, head)
    wide_hidden, wide_head = hidden.detach().double().requires_grad_(), in_float64(head)
    dense = F.cross_entropy(dense_logits(wide_hidden, wide_head), targets, reduction="sum")
    assert_near(found, with_gradients(dense, wide_hidden, wide_head), relative)


def test_a_bias_trains_under_frozen_weights_and_not_beyond_the_tokenizer():
    hidden, weight, *_ = pair()
    head = a_head(weight, AFTER["all"], 1)
    head.weight_VH.requires_grad_(False)
    losses.cross_entropy(hidden, head, torch.arange(N), vocabulary_size=V).total.backward()
    assert head.weight_VH.grad is None
    assert (head.bias_V.grad[:V] != 0).all() and (head.bias_V.grad[V:] == 0).all()


@pytest.mark.parametrize("after", [{}, *AFTER.values()], ids=["plain", *AFTER])
def test_logits_of_a_head_are_the_dense_ones(after):
    hidden, weight, *_ = pair(dtype=torch.float64)
    head = a_head(weight, after, 1)
    torch.testing.assert_close(head.cut(V).logits(hidden), dense_logits(hidden, head))


# --- what requires a gradient ---------------------------------------------------------------------------


def test_a_head_tied_to_the_embedding_collects_both_gradients():
    _, table, teacher_hidden, teacher_head = pair(dtype=torch.float64)
    tokens = torch.randint(V, (N,), generator=generator())
    gradients = []
    for fused in (True, False):
        embedding = table.clone().requires_grad_()
        hidden = torch.tanh(embedding[tokens])
        if fused:
            total = divergence(
                hidden, embedding, teacher_hidden, teacher_head, **settings("reverse_kl")
            ).total
        else:
            logits = hidden @ embedding[:V].T
            total = dense_rows(logits, teacher_hidden @ teacher_head[:V].T, "reverse_kl", None, 1.0).sum()
        total.backward()
        gradients.append(embedding.grad)
    assert_near(gradients[:1], gradients[1:], 1e-12)


def test_under_a_frozen_head_an_adapter_gets_its_gradient_and_the_head_none():
    hidden, head, *teacher = pair(dtype=torch.float64)
    down = torch.randn(STUDENT_WIDTH, 2, generator=generator(), dtype=torch.float64)
    expected, found = (x.requires_grad_() for x in (down.clone(), down.clone()))
    total = divergence(hidden + hidden @ found @ found.T, head, *teacher, **settings("jsd")).total
    total.backward()
    logits = (hidden + hidden @ expected @ expected.T) @ head[:V].T
    dense_rows(logits, teacher[0] @ teacher[1][:V].T, "jsd", 0.5, 1.0).sum().backward()
    assert_near([found.grad], [expected.grad], 1e-12)
    assert head.grad is None


def test_a_head_can_train_alone():
    hidden, head, *teacher = pair()
    divergence(hidden, head.requires_grad_(), *teacher, **settings("jsd")).total.backward()
    assert hidden.grad is None
    assert_near([head.grad], [run(pair(), kind="jsd")[2]], 1e-6)


def test_the_teacher_gets_no_gradient_even_where_it_shares_a_head():
    hidden, head, *_ = pair()
    other = (hidden + 0.1).requires_grad_()
    found = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    divergence(*found, other, found[1], **settings("forward_kl")).total.backward()
    assert other.grad is None
    expected = run([hidden, head, other.detach(), head], kind="forward_kl")
    assert_near([x.grad for x in found], expected[1:], 1e-6)


def test_without_grad_mode_there_is_no_graph_and_no_product_for_a_gradient():
    hidden, head, *teacher = pair()
    with torch.no_grad(), FlopCounterMode(display=False) as products:
        total = divergence(hidden.requires_grad_(), head.requires_grad_(), *teacher, **settings("jsd")).total
    assert not total.requires_grad
    assert total == run(pair(), kind="jsd")[0]
    assert products.get_total_flops() == 2 * N * V * (STUDENT_WIDTH + TEACHER_WIDTH)


def test_rows_of_a_head_beyond_the_tokenizer_change_nothing_and_get_no_gradient():
    tensors = pair()
    expected = run(tensors, kind="jsd")
    tensors[1][V:] = 1e3
    tensors[3][V:] = -1e3
    total, hidden_gradient, head_gradient = run(tensors, kind="jsd")
    assert total == expected[0]
    assert torch.equal(hidden_gradient, expected[1])
    assert head_gradient.shape == tensors[1].shape
    assert (head_gradient[V:] == 0).all()


# --- what must not change a result ----------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3 * V, 1 << 30])
@pytest.mark.parametrize("rows", [1, 3, N, 100])
def test_chunks_and_blocks_change_nothing_beyond_rounding(monkeypatch, rows, block):
    expected = run(pair(dtype=torch.float64), kind="jsd", teacher_noise=noise_of())
    monkeypatch.setitem(losses.BLOCK_ELEMENTS, "cpu", block)
    budget = rows * 2 * V * 12
    found = run(pair(dtype=torch.float64), kind="jsd", teacher_noise=noise_of(), budget_bytes=budget)
    assert_near(found, expected, 1e-13)


def ragged_batch(side, width=9, lengths=(9, 4, 6, 2), prompt=2, hidden=STUDENT_WIDTH):
    """Hidden states, mask, ids and item keys of sequences whose content does not depend on the padding."""
    hidden_BTH = torch.full((len(lengths), width, hidden), 7.0)  # what stands on padding must not matter
    mask_BT = torch.zeros(len(lengths), width, dtype=torch.bool)
    item_ids, positions = [], []
    for b, length in enumerate(lengths):
        first = width - length if side == "left" else 0
        hidden_BTH[b, first : first + length] = torch.randn(length, hidden, generator=generator(b))
        mask_BT[b, first + prompt : first + length] = True
        item_ids += [f"item-{b}"] * (length - prompt)
        positions += range(prompt, length)
    return hidden_BTH, mask_BT, noise_keys(0, item_ids, positions)


def ragged_loss(side, order=(0, 1, 2, 3)):
    student_BTH, mask_BT, keys = ragged_batch(side)
    teacher_BTH, *_ = ragged_batch(side, hidden=TEACHER_WIDTH)
    per_item = torch.split(keys, mask_BT.sum(1).tolist())
    order = list(order)
    noise = LogitNoise(torch.cat([per_item[b] for b in order]), 1.0)
    _, head, _, teacher_head = pair()
    hidden_NH = shifted(student_BTH[order], mask_BT[order])
    teacher_NH = shifted(teacher_BTH[order], mask_BT[order])
    return run([hidden_NH, head, teacher_NH, teacher_head], kind="jsd", teacher_noise=noise, temperature=2.0)


def test_padding_side_changes_nothing():
    for left, right in zip(ragged_loss("left"), ragged_loss("right"), strict=True):
        assert torch.equal(left, right)


def test_batch_order_changes_nothing_beyond_rounding():
    found, expected = ragged_loss("left", (2, 0, 3, 1)), ragged_loss("left")
    assert_near([found[0], found[2]], [expected[0], expected[2]], 1e-6)


def test_micro_batches_of_unequal_length_add_up_to_the_whole():
    whole = ragged_loss("right")
    parts = [ragged_loss("right", order) for order in ((0,), (1, 2), (3,))]
    assert_near([sum(part[i] for part in parts) for i in (0, 2)], [whole[0], whole[2]], 1e-6)
    assert_near([torch.cat([part[1] for part in parts])], [whole[1]], 1e-6)


def test_the_token_at_t_is_scored_by_the_hidden_state_at_t_minus_1_and_no_other():
    hidden_BTH = torch.randn(2, 6, STUDENT_WIDTH, generator=generator()).requires_grad_()
    input_ids_BT = torch.randint(V, (2, 6), generator=generator())
    mask_BT = torch.zeros(2, 6, dtype=torch.bool)
    mask_BT[0, 3] = mask_BT[1, 1] = mask_BT[1, 5] = True
    _, head, _, teacher_head = pair()
    targets_N = input_ids_BT[mask_BT]
    loss = cross_entropy(shifted(hidden_BTH, mask_BT), head, targets_N, vocabulary_size=V)
    dense = F.cross_entropy(
        (hidden_BTH @ head[:V].T)[:, :-1].flatten(0, 1), input_ids_BT[:, 1:].flatten(), reduction="none"
    )
    assert torch.allclose(loss.total, dense[mask_BT[:, 1:].flatten()].sum())
    teacher_NH = torch.randn(3, TEACHER_WIDTH, generator=generator())
    kd = divergence(shifted(hidden_BTH, mask_BT), head, teacher_NH, teacher_head, **settings("jsd"))
    for total in (loss.total, kd.total):
        (gradient,) = torch.autograd.grad(total, hidden_BTH)
        touched = gradient.abs().sum(-1) > 0
        assert touched.nonzero().tolist() == [[0, 2], [1, 0], [1, 4]]


def test_nothing_selected_gives_exactly_zero_and_gradients_of_zeros():
    hidden_BTH = torch.randn(2, 4, STUDENT_WIDTH, generator=generator()).requires_grad_()
    mask_BT = torch.zeros(2, 4, dtype=torch.bool)
    _, head, _, teacher_head = pair()
    head.requires_grad_()
    hidden_NH = shifted(hidden_BTH, mask_BT)
    teacher_NH = torch.zeros(0, TEACHER_WIDTH)
    noise = LogitNoise(noise_keys(0, [], []), 1.0)
    for loss in (
        divergence(hidden_NH, head, teacher_NH, teacher_head, **settings("jsd", teacher_noise=noise)),
        cross_entropy(hidden_NH, head, torch.zeros(0, dtype=torch.long), vocabulary_size=V),
    ):
        assert loss.total == 0
        assert loss.n_tokens == 0
        gradients = torch.autograd.grad(loss.total, [hidden_BTH, head], retain_graph=True)
        assert all((gradient == 0).all() for gradient in gradients)


# --- precision and memory -------------------------------------------------------------------------------


def wide_pair(dtype, n=64, vocabulary=500, widths=(48, 64)):
    rng = generator()
    shapes = [shape for width in widths for shape in ((n, width), (vocabulary, width))]
    scale = [math.sqrt(2.0 / math.sqrt(width)) for width in widths for _ in range(2)]  # logits of deviation 2
    tensors = [s * torch.randn(shape, generator=rng) for s, shape in zip(scale, shapes, strict=True)]
    return [x.bfloat16().to(dtype) for x in tensors]  # the same numbers in either dtype


BF16_VALUE, BF16_GRADIENT = 0.005, 0.03  # stated rounding, relative in norm


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_bfloat16_stays_within_the_stated_rounding_of_float32(kind, beta):
    options = {"kind": kind, "beta": beta, "vocabulary_size": 500, "temperature": 2.0}
    expected = run(wide_pair(torch.float32), **options)
    total, *gradients = run(wide_pair(torch.bfloat16), **options)
    assert total.dtype == torch.float32
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    assert_near([total], expected[:1], BF16_VALUE)
    assert_near(gradients, expected[1:], BF16_GRADIENT)


def test_bfloat16_sums_over_many_chunks_in_float32():
    options = {"kind": "forward_kl", "vocabulary_size": 500}
    expected = run(wide_pair(torch.float32, n=2048), **options)
    found = run(wide_pair(torch.bfloat16, n=2048), **options, budget_bytes=1)  # 2048 chunks of one row
    assert_near(found[:1], expected[:1], BF16_VALUE)
    assert_near(found[1:], expected[1:], BF16_GRADIENT)


def test_autocast_runs_products_in_its_dtype_and_keeps_the_gradients_dtype():
    options = {"kind": "jsd", "vocabulary_size": 500}
    in_bfloat16 = run(wide_pair(torch.bfloat16), **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(wide_pair(torch.float32), **options)
    assert found[1].dtype == found[2].dtype == torch.float32
    assert found[0] == in_bfloat16[0]
    assert_near(found[1:], in_bfloat16[1:], 0.005)  # the other's gradients are rounded once more


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "cross_entropy"])
def test_no_tensor_grows_with_positions_times_vocabulary(kind):
    vocabulary, width, rows, largest = 2000, 4, 8, []
    for n in (64, 512):
        rng = generator()
        hidden, teacher = (torch.randn(n, width, generator=rng) for _ in range(2))
        head = torch.randn(vocabulary, width, generator=rng).requires_grad_()
        hidden.requires_grad_()
        with LargestTensor() as mode:
            if kind == "cross_entropy":
                targets, budget = torch.zeros(n, dtype=torch.long), rows * vocabulary * 4
                loss = cross_entropy(hidden, head, targets, vocabulary_size=vocabulary, budget_bytes=budget)
            else:
                noise = noise_of(n)
                budget = rows * 2 * vocabulary * 4
                options = settings(kind, vocabulary_size=vocabulary, budget_bytes=budget, teacher_noise=noise)
                loss = divergence(hidden, head, teacher, head, **options)
            loss.total.backward()
        largest.append(mode.n_elements)
    assert largest == [rows * vocabulary] * 2


# --- noise ----------------------------------------------------------------------------------------------


def splitmix64(state, n):
    """Steele, Lea & Flood's generator as published, on Python's integers."""
    outputs, wrap = [], 2**64 - 1
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & wrap
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & wrap
        outputs.append(z ^ (z >> 31))
    return outputs


def test_bits_are_those_of_splitmix64():
    keys = torch.tensor([0, 1, -1, 1234567, -(2**63), 2**63 - 1])
    bits = random_bits(keys, 50)
    assert [[b % 2**64 for b in row] for row in bits.tolist()] == [
        splitmix64(k % 2**64, 50) for k in keys.tolist()
    ]
    # Known answer, e.g. in Rosetta Code's and the JDK's tests of SplitMix64 with seed 1234567.
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


def test_keys_and_noise_never_change_from_one_version_to_the_next():
    keys = noise_keys(7, ["gsm8k-12", "gsm8k-12"], [0, 31])
    assert keys.tolist() == [6937258129828418325, 310182563170560174]
    expected = torch.tensor([[0.738051, -1.95735, -0.959535], [0.466902, -1.045128, 0.002596]])
    assert torch.allclose(gaussian_noise(keys, 3), expected, atol=1e-5)


def test_each_seed_item_and_position_has_noise_of_its_own():
    rows = list(itertools.product((0, 1), ("a", "b", "1/a"), (0, 1, 11)))
    keys = torch.cat([noise_keys(seed, [item], [position]) for seed, item, position in rows])
    assert len(set(keys.tolist())) == len(rows)
    correlation = torch.corrcoef(gaussian_noise(keys, 20_000)).fill_diagonal_(0.0)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)


def test_noise_is_the_same_in_any_batch_order_and_width():
    keys = noise_keys(0, [f"item-{i}" for i in range(6)], range(6))
    whole = gaussian_noise(keys, 11)
    assert torch.equal(gaussian_noise(keys.flip(0), 11).flip(0), whole)
    assert torch.equal(torch.cat([gaussian_noise(key[None], 11) for key in keys]), whole)
    assert torch.equal(gaussian_noise(keys, 4), whole[:, :4])
    assert torch.allclose(gaussian_noise(keys, 1001)[:, :11], whole, atol=1e-6)  # vector and scalar code


def test_noise_is_standard_normal():
    stats = pytest.importorskip("scipy.stats")
    draws = gaussian_noise(noise_keys(1, ["item"] * 200, range(200)), 5001)
    assert stats.kstest(draws.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    assert draws.isfinite().all()
    assert 4.5 < draws.abs().max() < 6.7
    flat = draws[:, :5000].double()
    n = flat.numel()
    for moment, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((flat**moment).mean() - expected) < 4 * math.sqrt(spread / n)
    left, right = flat[:, 0::2].flatten(), flat[:, 1::2].flatten()  # the two of one pair
    assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 4 / math.sqrt(len(left))
    assert abs(torch.corrcoef(torch.stack([left**2, right**2]))[0, 1]) < 4 / math.sqrt(len(left))


def test_the_rarest_draw_is_finite():
    key = torch.tensor([2**64 - 0x9E3779B97F4A7C15])  # all 64 bits of its first output are 0
    assert random_bits(key, 1) == 0
    assert float(gaussian_noise(key, 1)) == pytest.approx(math.sqrt(-2 * math.log(2.0**-32)))


def test_noise_of_sigma_zero_is_no_noise():
    assert run(pair(), kind="jsd", teacher_noise=noise_of(sigma=0.0))[0] == run(pair(), kind="jsd")[0]


def test_the_heads_gradient_is_the_same_in_slices(monkeypatch):
    narrow = tuple(x.bfloat16() for x in pair())
    whole = run(narrow, kind="jsd")
    monkeypatch.setattr(losses, "HEAD_ROWS", 5)
    assert_near(run(narrow, kind="jsd"), whole, 1e-6)


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_compiled_rows_are_those_of_the_reference(kind, beta):
    how = {"kind": kind, "beta": beta, "temperature": 2.0, "teacher_noise": noise_of(sigma=1.0)}
    assert_near(run(pair(), compile_backend="aot_eager", **how), run(pair(), **how), 1e-6)


# --- another implementation -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_trls_dense_loss_agrees(kind, beta, temperature):
    gkd = pytest.importorskip(
        "trl.experimental.gkd", reason="trl is not installed (extra `bench`)", exc_type=ImportError
    )
    their_beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(kind, beta)
    hidden, head, teacher_hidden, teacher_head = pair()
    hidden.requires_grad_()
    head.requires_grad_()
    logits = [(hidden @ head[:V].T)[None], (teacher_hidden @ teacher_head[:V].T)[None]]
    total = gkd.GKDTrainer.generalized_jsd_loss(
        *logits, beta=their_beta, temperature=temperature, reduction="sum"
    )
    total.backward()
    found = run(pair(), kind=kind, beta=beta, temperature=temperature)
    assert_near(found, [total.detach(), hidden.grad, head.grad], 2e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_trls_chunked_divergence_agrees(kind, beta, temperature):
    kernels = pytest.importorskip(
        "trl.kernels.chunked_divergence", reason="trl is not installed (extra `bench`)", exc_type=ImportError
    )
    their_beta = {"forward_kl": 0.0, "reverse_kl": 1.0}.get(kind, beta)
    hidden, head, teacher_hidden, teacher_head = pair()
    hidden.requires_grad_()
    head.requires_grad_()
    teacher = (teacher_hidden, teacher_head[:V], None)
    rows, _ = kernels.ChunkedDivergenceFunction.apply(
        hidden, head[:V], None, *teacher, their_beta, temperature
    )
    rows.sum().backward()
    found = run(pair(), kind=kind, beta=beta, temperature=temperature)
    assert_near(found, [rows.sum().detach(), hidden.grad, head.grad], 2e-5)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tvd"}, "'tvd'.*forward_kl"),
        ({"kind": "jsd", "beta": 0}, "beta=0 .*kind='forward_kl'"),
        ({"kind": "jsd", "beta": 1.0}, r"beta=1\.0 .*kind='reverse_kl'"),
        ({"kind": "jsd", "beta": -0.1}, r"beta=-0\.1 .*0\.5"),
        ({"kind": "jsd", "beta": 1.1}, r"beta=1\.1 "),
        ({"kind": "jsd", "beta": math.nan}, "beta=nan"),
        ({"kind": "forward_kl", "beta": 0.5}, r"'forward_kl' with beta=0\.5"),
        ({"temperature": 0.0}, r"temperature=0\.0 .*1 leaves"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"vocabulary_size": STUDENT_ROWS + 1}, f"student.*{STUDENT_ROWS + 1} rows.*seqkd"),
        ({"vocabulary_size": 0}, "tokenizer's 0 rows"),
        ({"budget_bytes": 0}, "budget_bytes=0"),
        ({"weights_N": torch.ones(N - 1)}, f"weights: {N - 1} rows for {N}.*mask"),
        ({"teacher_noise": noise_of(N + 1)}, f"noise: {N + 1} rows for {N}"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        divergence(*pair(), **settings("jsd") | options)


def test_jsd_without_beta_is_refused():
    with pytest.raises(ValueError, match="beta=None: jsd needs"):
        divergence(*pair(), **settings("jsd") | {"beta": None})


def test_tensors_that_do_not_fit_are_refused():
    hidden, head, teacher_hidden, teacher_head = pair()
    for tensors, message in (
        ((hidden, head, teacher_hidden[:-1], teacher_head), f"teacher: {N - 1} rows for {N}"),
        ((hidden, head, teacher_hidden, teacher_head[: V - 1]), f"teacher: .*tokenizer's {V} rows.*seqkd"),
        ((hidden, teacher_head, teacher_hidden, teacher_head), "student: .*one width"),
        ((hidden[None], head, teacher_hidden, teacher_head), "student: .*shifted"),
        ((hidden.half(), head.half(), teacher_hidden, teacher_head), "float16.*bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            divergence(*tensors, **settings("forward_kl"))


@pytest.mark.parametrize("sigma", [-1.0, math.nan, math.inf])
def test_a_bad_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match=f"sigma={sigma} "):
        noise_of(sigma=sigma)


def test_bad_targets_are_refused():
    hidden, head, *_ = pair()
    for targets, message in (
        (torch.tensor([0, 1, 2, 3, 4, 5, -100]), "span -100..5.*no -100"),
        (torch.tensor([0, 1, 2, 3, 4, 5, V]), f"span 0..{V}, the vocabulary 0..{V - 1}"),
        (torch.tensor([0, 1]), f"targets: 2 rows for {N}"),
    ):
        with pytest.raises(ValueError, match=message):
            cross_entropy(hidden, head, targets, vocabulary_size=V)


def test_bad_masks_are_refused():
    hidden_BTH = torch.zeros(2, 4, STUDENT_WIDTH)
    mask_BT = torch.ones(2, 4, dtype=torch.bool)
    for mask, message in (
        (mask_BT, "position 0.*= False"),
        (mask_BT[:, 1:], "not shifted itself"),
        (mask_BT.long(), "mask torch.int64.*bool"),
    ):
        with pytest.raises(ValueError, match=message):
            shifted(hidden_BTH, mask)
