"""The variants of problem set 3."""

PS3: dict[str, list[tuple[str, ...]]] = {
    "partners": [
        (
            "The batch is cut into triples. Each image of a triple reads the next one, the third reads the first.",
            "torch.arange(len(tokens)).view(-1, 3).roll(-1, 1).flatten()",
            "torch.arange(count).view(-1, 3).roll(-1, 1).flatten()",
            "image - 2 if image % 3 == 2 else image + 1",
            'tokens[1]), "by rule 1, image 0 reads image 1"',
            "min(layers + 1, 3)",
            "Here the partner reads a third image, so they differ still.",
        ),
        (
            "The batch is a ring. Each image reads the one before it, the first reads the last.",
            "torch.arange(len(tokens)).roll(1)",
            "torch.arange(count).roll(1)",
            "(image - 1) % count",
            'tokens[11]), "by rule 1, image 0 reads image 11, the last one"',
            "min(layers + 1, count)",
            "Here the partner reads a third image, so they differ still.",
        ),
        (
            "The batch is cut into groups of four. Each image of a group reads the one before it, the first reads the "
            "fourth.",
            "torch.arange(len(tokens)).view(-1, 4).roll(1, 1).flatten()",
            "torch.arange(count).view(-1, 4).roll(1, 1).flatten()",
            "image + 3 if image % 4 == 0 else image - 1",
            'tokens[3]), "by rule 1, image 0 reads image 3"',
            "min(layers + 1, 4)",
            "Here the partner reads a third image, so they differ still.",
        ),
        (
            "The batch is folded in the middle. The first and the last image read each other, the second and the last "
            "but one read each other, and so on.",
            "torch.arange(len(tokens)).flip(0)",
            "torch.arange(count).flip(0)",
            "count - 1 - image",
            'tokens[11]), "by rule 1, image 0 reads image 11, the last one"',
            "min(layers + 1, 2)",
            "Here partners read each other, so they are equal.",
        ),
    ],
    "attention": [
        (
            r"The scores on the partner's keys are multiplied by $\beta$; then one softmax runs over all $2N$ keys.",
            "[4 / 10, 2 / 10, 3 / 10, 1 / 10]",
            "torch.cat([own, beta * other], dim=-1).softmax(dim=-1)",
            "numbers = [math.exp(s) for s in own] + [math.exp(beta * s) for s in other]",
            "right = 3 / (3 + 1 + 2 + 4)",
            "[False, False, False, True, True]",
        ),
        (
            r"One softmax runs over all $2N$ keys, in which each of the partner's tokens counts $\beta$ times only: "
            r"its exponential is multiplied by $\beta$.",
            "[8 / 22, 4 / 22, 9 / 22, 1 / 22]",
            "torch.cat([own, other + math.log(beta)], dim=-1).softmax(dim=-1)",
            "numbers = [math.exp(s) for s in own] + [beta * math.exp(s) for s in other]",
            "right = 3 / (3 + 1 + 4 / 2 + 16 / 2)",
            "[True, False, True, True, True]",
        ),
        (
            "There are two softmaxes, one over the own image's keys and one over the partner's. The first one's "
            r"weights are multiplied by $1 - \beta$, the second one's by $\beta$.",
            "[4 / 12, 2 / 12, 9 / 20, 1 / 20]",
            "torch.cat([(1 - beta) * own.softmax(dim=-1), beta * other.softmax(dim=-1)], dim=-1)",
            "numbers = [(1 - beta) * math.exp(s) / sum(map(math.exp, own)) for s in own]\n"
            "    numbers += [beta * math.exp(s) / sum(map(math.exp, other)) for s in other]",
            "right = (1 - 0.5) * 3 / (3 + 1)",
            "[True, True, True, True, False]",
        ),
    ],
    "total": [
        (
            r"$\displaystyle \sum_b \Big( \frac{L_b}{2 s_b^2} + \log s_b \Big)$, all $s_b > 0$.",
            "return (losses / (2 * s**2) + s.log()).sum()",
            "loss / (2 * s * s) + math.log(s)",
            "right = 2 / 2 + math.log(1)\n",
            "loss, right = 1, 1 / 2  # s = 1 is the best there",
            "return (1 + math.log(loss)) / 2",
            "math.exp(x / 500)",
            r"The derivative $-L / s^3 + 1 / s$ is zero at $s^2 = L$, where the term is $\tfrac12 (1 + \log L)$: "
            "negative for $L < 1/e$.",
            "means nothing: losses that fall drive it down without end.",
            "multiplied by $1 / (2 s^2) = 1 / (2 L)$",
        ),
        (
            r"$\displaystyle \sum_b \Big( p_b L_b - \frac{\log p_b}{2} \Big)$, with the softplus "
            r"$p_b = \log(1 + e^{s_b})$.",
            "p = F.softplus(s)\n    return (p * losses - p.log() / 2).sum()",
            "math.log1p(math.exp(s)) * loss - math.log(math.log1p(math.exp(s))) / 2",
            "p = math.log(1 + math.e)\nright = 2 * p - math.log(p) / 2\n",
            "loss, right = 1 / 2, 1 / 2  # p = 1 is the best there",
            "return (1 + math.log(2 * loss)) / 2",
            "x / 500",
            "By the precision $p$, which takes every positive value, the derivative $L - 1 / (2 p)$ is zero at "
            r"$p = 1 / (2 L)$, where the term is $\tfrac12 (1 + \log 2 L)$: negative for $L < 1 / (2 e)$.",
            "means nothing: losses that fall drive it down without end.",
            "multiplied by $p = 1 / (2 L)$",
        ),
        (
            r"$\displaystyle \sum_b \Big( \frac{L_b}{2 s_b^2} + \log(1 + s_b^2) \Big)$, all $s_b > 0$.",
            "return (losses / (2 * s**2) + (1 + s**2).log()).sum()",
            "loss / (2 * s * s) + math.log1p(s * s)",
            "right = 2 / 2 + math.log(1 + 1)\n",
            "loss, right = 1, 1 / 2 + math.log(2)  # s = 1 is the best there",
            "square = (loss + math.sqrt(loss**2 + 8 * loss)) / 4\n"
            "    return loss / (2 * square) + math.log(1 + square)",
            "math.exp(x / 500)",
            r"By $v = s^2$, the derivative $-L / (2 v^2) + 1 / (1 + v)$ is zero at $v = (L + \sqrt{L^2 + 8 L}) / 4$. "
            "Both parts of the term are positive for every $s$: it is never negative, and goes to zero with $L$.",
            "cannot change here.",
            r"multiplied by $1 / (2 s^2) = 1 / (2 v)$, about $1 / \sqrt{2 L}$ for a small $L$,",
        ),
        (
            r"$\displaystyle \sum_b \Big( s_b L_b + \frac{1}{s_b} \Big)$, all $s_b > 0$.",
            "return (s * losses + 1 / s).sum()",
            "s * loss + 1 / s",
            "right = 2 + 1\n",
            "loss, right = 1, 2  # s = 1 is the best there",
            "return 2 * math.sqrt(loss)",
            "math.exp(x / 500)",
            r"The derivative $L - 1 / s^2$ is zero at $s = 1 / \sqrt L$, where the term is $2 \sqrt L$. Both parts of "
            "the term are positive for every $s$: it is never negative, and goes to zero with $L$.",
            "cannot change here.",
            r"multiplied by $s = 1 / \sqrt L$",
        ),
    ],
    "targets": [
        (
            "one half its own label and one half its partner's",
            "target = (own + own[partner]) / 2",
            "[1 / 2, 1 / 2]",
        ),
        (
            "three quarters its own label and one quarter its partner's",
            "target = 0.75 * own + 0.25 * own[partner]",
            "[3 / 4, 1 / 4]",
        ),
        (
            "its partner's label alone",
            "target = own[partner]",
            "[0.0, 1.0]",
        ),
    ],
}
