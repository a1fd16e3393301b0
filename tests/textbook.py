"""The divergences as a textbook has them, from whole logits."""


def dense_rows(student_logits, teacher_logits, kind, beta, temperature):
    """Textbook formulas in probability space; meant for float64."""
    log_s = (student_logits / temperature).log_softmax(-1)
    log_t = (teacher_logits / temperature).log_softmax(-1)
    if kind == "forward_kl":
        return (log_t.exp() * (log_t - log_s)).sum(-1)
    if kind == "reverse_kl":
        return (log_s.exp() * (log_s - log_t)).sum(-1)
    log_m = (beta * log_t.exp() + (1 - beta) * log_s.exp()).log()
    kl_t = (log_t.exp() * (log_t - log_m)).sum(-1)
    return beta * kl_t + (1 - beta) * (log_s.exp() * (log_s - log_m)).sum(-1)
