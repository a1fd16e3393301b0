"""The divergences as their papers have them, from whole logits."""


def dense_rows(student_logits, teacher_logits, kind, beta, temperature):
    """Formulas in probability space, for float64; autograd differentiates them by the student's logits."""
    log_s = (student_logits / temperature).log_softmax(-1)
    log_t = (teacher_logits / temperature).log_softmax(-1)
    s, t = log_s.exp(), log_t.exp()

    def kl(p, log_q):
        return (p * (p.log() - log_q)).sum(-1)

    forward, reverse = (t * (log_t - log_s)).sum(-1), (s * (log_s - log_t)).sum(-1)
    if kind == "jsd":
        log_m = (beta * t + (1 - beta) * s).log()
        return beta * kl(t, log_m) + (1 - beta) * kl(s, log_m)
    if kind == "adaptive":
        gaps = (t - s).detach().abs()
        head = [gap[head_of(row.tolist())].sum() for gap, row in zip(gaps, t, strict=True)]
        share = head[0].new_tensor(head) / gaps.sum(-1)
        return share * forward + (1 - share) * reverse
    if kind == "alpha_beta":
        products = t**0.2 * s**0.7 - 0.2 / 0.9 * t**0.9 - 0.7 / 0.9 * s**0.9
        return -products.sum(-1) / (0.2 * 0.7)
    return {
        "forward_kl": forward,
        "reverse_kl": reverse,
        "skew_forward": kl(t, (0.1 * t + 0.9 * s).log()),
        "skew_reverse": kl(s, (0.9 * t + 0.1 * s).log()),
    }[kind]


def head_of(probabilities):
    """The most probable token, and the next ones while the sum is at most a half."""
    head, total = [], 0.0
    for token in sorted(range(len(probabilities)), key=lambda v: -probabilities[v]):
        total += probabilities[token]
        if head and total > 0.5:
            break
        head.append(token)
    return head
