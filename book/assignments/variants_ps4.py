"""The variants of problem set 4, of which each student chooses one half."""

RGA: dict[str, list[tuple[str, ...]]] = {
    "relation": [
        (
            r"is $R_{ij} = \theta_i^\top \phi_j / N$.",
            "dot_by_hand(x, y) / count",
            "R = theta.mT @ phi / theta.shape[-1]\n",
            "R = [[2 / 2, 2 / 2], [0 / 2, 2 / 2]]\n",
            "theta = theta / theta.shape[-1]\n",
            r"$\hat\Theta = \Theta / N$, $\hat\Phi = \Phi$",
        ),
        (
            r"is the cosine of the angle between $\theta_i$ and $\phi_j$.",
            "dot_by_hand(x, y) / (math.hypot(*x) * math.hypot(*y))",
            "theta, phi = (z / z.norm(dim=1, keepdim=True) for z in (theta, phi))\n    R = theta.mT @ phi\n",
            "R = [[0.5**0.5, 1], [0, 0.5**0.5]]\n",
            "theta, phi = (z / z.norm(dim=1, keepdim=True) for z in (theta, phi))\n",
            "each column divided by its length",
        ),
        (
            r"is $f(\theta_i)^\top f(\phi_j)$, with $f(x) = x + 1$ where $x > 0$, else $e^x$, for each number by "
            "itself: so relations are positive.",
            "dot_by_hand(*([a + 1 if a > 0 else math.exp(a) for a in z] for z in (x, y)))",
            "theta, phi = (torch.where(z > 0, z + 1, z.exp()) for z in (theta, phi))\n    R = theta.mT @ phi\n",
            "R = [[6 + 2, 4 + 4], [3 + 3, 2 + 6]]\n",
            "theta, phi = (torch.where(z > 0, z + 1, z.exp()) for z in (theta, phi))\n",
            r"$\hat\Theta = f(\Theta)$, $\hat\Phi = f(\Phi)$",
        ),
    ],
    "vector": [
        (
            "its relation to $j$ plus the relation of $j$ to it, $r_i[j] = R_{ij} + R_{ji}$.",
            "[[R[i][j] + R[j][i] for j in n] for i in n]",
            "return [5, 2, 5]",
            "return R + R.mT\n",
            "right = R[1][0] + R[0][1]\n",
            "return (weight @ phi.mT) @ theta + (weight @ theta.mT) @ phi\n",
            "return nodes**2 * inner + rows * nodes**2, 4 * rows * inner * nodes",
            "weight @ (R + R.T)\n",
            "(weight @ phi.T) @ theta + (weight @ theta.T) @ phi\n    right",
            "gradients = (grad @ theta.mT) @ phi + (grad @ phi.mT) @ theta\n",
            r"are $R^\top + R$,",
            r"$W (\hat\Phi^\top \hat\Theta + \hat\Theta^\top \hat\Phi) = (W \hat\Phi^\top) \hat\Theta + "
            r"(W \hat\Theta^\top) \hat\Phi$. The first step distributes $W$ over the sum, the second moves brackets; "
            "both hold for all matrices.",
            "$24 N^2 > 512 N$, so for $N > 21$.",
        ),
        (
            "its relation to $j$ less the mean of all its relations, "
            r"$r_i[j] = R_{ij} - \tfrac1N \sum_l R_{il}$.",
            "[[R[i][j] - sum(R[i]) / len(R) for j in n] for i in n]",
            "return [4 / 3, -2 / 3, -2 / 3]",
            "return R - R.mean(dim=-1, keepdim=True)\n",
            "right = R[1][0] - (R[1][0] + R[1][1]) / 2\n",
            "weight = weight - weight.mean(dim=-1, keepdim=True)\n    return (weight @ phi.mT) @ theta\n",
            "return nodes**2 * inner + rows * nodes**2, 2 * rows * inner * nodes",
            "weight @ (R - R.mean(dim=1, keepdim=True)).T\n",
            "(weight @ phi.T) @ theta\n    right",
            "gradients = (grad @ theta.mT) @ phi\n    gradients = gradients - gradients.mean(dim=-1, keepdim=True)\n",
            r"are $(E - U) R^\top$, with the identity $E$ and the matrix $U$ whose entries are all $1/N$,",
            r"$W (E - U) \hat\Phi^\top \hat\Theta = ((W - W U) \hat\Phi^\top) \hat\Theta$, and $W - W U$ is $W$ less "
            "the mean of each row. The steps only move brackets and distribute; they hold for all matrices.",
            "$24 N^2 > 256 N$, so for $N > 10$.",
        ),
        (
            r"its relations over one step between, $r_i[j] = \sum_l R_{il} R_{lj}$.",
            "[[sum(R[i][m] * R[m][j] for m in n) for j in n] for i in n]",
            "return [6, 11, 3]",
            "return R @ R\n",
            "right = R[1][0] * R[0][0] + R[1][1] * R[1][0]\n",
            "return (weight @ phi.mT) @ (theta @ phi.mT) @ theta\n",
            "with_matrix = nodes**2 * inner + nodes**3 + rows * nodes**2\n"
            "    return with_matrix, 2 * rows * inner * nodes + nodes * inner**2 + rows * inner**2",
            "weight @ (R @ R).T\n",
            "(weight @ phi.T) @ (theta @ phi.T) @ theta\n    right",
            "gradients = (grad @ theta.mT) @ (phi @ theta.mT) @ phi\n",
            r"are $R^\top R^\top$,",
            r"$W \hat\Phi^\top \hat\Theta \hat\Phi^\top \hat\Theta = "
            r"(W \hat\Phi^\top) (\hat\Theta \hat\Phi^\top) \hat\Theta$. This moves brackets only, which holds "
            "for all matrices.",
            "$N^3 + 24 N^2 > 320 N + 1024$, so for $N > 11$.",
        ),
    ],
    "reading": [
        (
            r"from those who look at the node: $\displaystyle y_i = \frac1N \sum_j R_{ji}\, v_j$.",
            "return (v @ theta.mT) @ phi / v.shape[-1]\n",
            "[theta[b, :, j] @ phi[b, :, i] / nodes for j in range(nodes)]",
        ),
        (
            r"from all nodes but the node itself: $\displaystyle y_i = \frac1N \sum_{j \ne i} R_{ij}\, v_j$.",
            "own = (theta * phi).sum(dim=1, keepdim=True) * v\n    return ((v @ phi.mT) @ theta - own) / v.shape[-1]\n",
            "[(j != i) * (theta[b, :, i] @ phi[b, :, j]) / nodes for j in range(nodes)]",
        ),
        (
            "from the nodes up to the node itself, over their number: "
            r"$\displaystyle y_i = \frac{1}{i + 1} \sum_{j \le i} R_{ij}\, v_j$.",
            'sums = torch.einsum("bdn, bcn -> bdcn", v, phi).cumsum(dim=-1)\n'
            '    read = torch.einsum("bdcn, bcn -> bdn", sums, theta)\n'
            "    return read / torch.arange(1, v.shape[-1] + 1)\n",
            "[(j <= i) * (theta[b, :, i] @ phi[b, :, j]) / (i + 1) for j in range(nodes)]",
        ),
    ],
}

HACNN: dict[str, list[tuple[str, ...]]] = {
    "centre": [
        (
            r"$y = (1 - h) \tanh a$, so that the region never leaves the map.",
            "return (1 - h) * a.tanh()",
            "return (y / (1 - h)).atanh()",
            "(1 - h) * math.tanh(a)",
            "slope = (1 - h) * (1 - a.tanh() ** 2)\n",
            "right = (1 - 0.25) * ",
            r"$\tanh$ is flat far from zero",
        ),
        (
            r"$y = a / (1 + |a|)$; the region may leave the map by half of itself.",
            "return a / (1 + a.abs())",
            "return y / (1 - y.abs())",
            "a / (1 + abs(a))",
            "slope = 1 / (1 + a.abs()) ** 2\n",
            "right = 1 * ",
            r"$1 / (1 + |a|)^2$ is small far from zero",
        ),
        (
            r"$y = 2 \sigma(a) - 1$ with the logistic function $\sigma$; the region may leave the map by half of "
            "itself.",
            "return 2 * a.sigmoid() - 1",
            "return ((1 + y) / 2).logit()",
            "2 / (1 + math.exp(-a)) - 1",
            "slope = 2 * a.sigmoid() * (1 - a.sigmoid())\n",
            "right = 0.5 * ",
            r"$\sigma$ is flat far from zero",
        ),
    ],
    "rows": [
        (
            "The first and the last row of the crop lie on the region's upper and lower border, the others at equal "
            "distances between them.",
            "the upper edge of the map, above its first row, and 1 the lower edge: the height $v$ is at the pixel $p = "
            "((v + 1) H - 1) / 2$.",
            "steps = 2 * torch.arange(n).to(y) / (n - 1) - 1\n",
            "return ((v + 1) * height - 1) / 2\n",
            "(2 * i / (n - 1) - 1)",
            "mine, right = rows_of(zero, 1.0, 2, 4)[0, 0].tolist(), [-0.5, 3.5]",
            "(slope * height / 2)",
            "8 / 2 * grad.sum(dim=-1)  # for a = 0\n",
        ),
        (
            "The region is cut into $n$ strips of equal height, and each row of the crop lies in the middle of its "
            "strip.",
            "the middle of the map's first row, and 1 the middle of its last row: the height $v$ is at the pixel $p = "
            "(v + 1) (H - 1) / 2$.",
            "steps = (2 * torch.arange(n).to(y) + 1) / n - 1\n",
            "return (v + 1) * (height - 1) / 2\n",
            "((2 * i + 1) / n - 1)",
            "mine, right = rows_of(zero, 1.0, 2, 4)[0, 0].tolist(), [0.75, 2.25]",
            "(slope * (height - 1) / 2)",
            "(8 - 1) / 2 * grad.sum(dim=-1)  # for a = 0\n",
        ),
        (
            "The first and the last row of the crop lie on the region's upper and lower border, the others at equal "
            "distances between them.",
            "the middle of the map's first row, and 1 the middle of its last row: the height $v$ is at the pixel $p = "
            "(v + 1) (H - 1) / 2$.",
            "steps = 2 * torch.arange(n).to(y) / (n - 1) - 1\n",
            "return (v + 1) * (height - 1) / 2\n",
            "(2 * i / (n - 1) - 1)",
            "mine, right = rows_of(zero, 1.0, 2, 4)[0, 0].tolist(), [0.0, 3.0]",
            "(slope * (height - 1) / 2)",
            "(8 - 1) / 2 * grad.sum(dim=-1)  # for a = 0\n",
        ),
    ],
    "kernel": [
        (
            "$w = 3 t^2 - 2 t^3$",
            "w = 3 * t**2 - 2 * t**3\n",
            "return t * t * (3 - 2 * t)\n",
            "return [10 + 30 * 27 / 32, 30 * 9 / 8]",
            "steep = 6 * t * (1 - t)\n",
            "10 + 30 * 1 / 2, ",
            "30 * 3 / 2\n",
            "$w'$ is $6 t (1 - t)$",
            "By rule 3 both derivatives are zero, since $w' = 0$ at $t = 0$ and at $t = 1$.",
            "for rule 3 it passes. A region all of whose rows start on whole rows gets no gradient by rule 3, and "
            "never moves.",
        ),
        (
            r"$w = (1 - \cos \pi t) / 2$",
            "w = (1 - torch.cos(math.pi * t)) / 2\n",
            "return math.sin(math.pi * t / 2) ** 2\n",
            "w = (1 - math.cos(0.75 * math.pi)) / 2\n"
            "    return [10 + 30 * w, 30 * math.pi / 2 * math.sin(0.75 * math.pi)]",
            "steep = math.pi / 2 * torch.sin(math.pi * t)\n",
            "10 + 30 * 1 / 2, ",
            "30 * math.pi / 2\n",
            r"$w'$ is $\tfrac\pi2 \sin \pi t$",
            "By rule 3 both derivatives are zero, since $w' = 0$ at $t = 0$ and at $t = 1$.",
            "for rule 3 it passes. A region all of whose rows start on whole rows gets no gradient by rule 3, and "
            "never moves.",
        ),
        (
            "$w = t^2$",
            "w = t**2\n",
            "return t * t\n",
            "return [10 + 30 * 9 / 16, 30 * 3 / 2]",
            "steep = 2 * t\n",
            "10 + 30 * 1 / 4, ",
            "30 * 1\n",
            "$w'$ is $2 t$",
            "By rule 3 they are $2 (X_r - X_{r-1})$ from above and zero from below, since $w' = 2 t$.",
            "for rule 3 it fails likewise. A region all of whose rows start on whole rows gets no gradient by rule 3, "
            "because the floor puts them at $t = 0$, and never moves.",
        ),
    ],
    "outside": [
        (
            "A row outside of the map means the nearest row of the map.",
            "index = index.clamp(0, height - 1)\n",
            "return min(max(row, 0), height - 1)\n",
            "0.0]\n",
        ),
        (
            "The map goes on outside as in a mirror that stands on its border rows: row −1 means row 1, row −2 means "
            "row 2, row $H$ means row $H - 2$, and so on.",
            "index = height - 1 - (height - 1 - index.abs()).abs()\n",
            "return abs(row) if row < height else 2 * (height - 1) - row\n",
            "10.0]\n",
        ),
        (
            "The map goes on outside as a ring: row −1 means the last row, row $H$ the first.",
            "index = index % height\n",
            "return row % height\n",
            "50.0]\n",
        ),
    ],
}
