"""The arrays behind the figures of the linear model, as functions of the task's config.

Its fields stand in tasks/linear_recovery.py. T = config.trials instances, A alphas, M lambdas. All
arrays are float64.
"""

import numpy as np
from ml_collections import ConfigDict

from sop_jax.theory import convex_program, landscape, linear_descent, sparse_linear
from sop_jax.theory.sparse_linear import relative_difference

LANDSCAPE_SIZE = (5, 8, 2, 2)  # N, p, r, k of the problems whose critical points are sought


def problems_of(
    config: ConfigDict, rank: int, sparsity: int
) -> tuple[sparse_linear.Problem, sparse_linear.Factors]:
    """The T instances of a rank and a sparsity, each of its own random stream, and their SVD."""
    size = config.num_rows, config.num_parameters, rank, sparsity
    problems = sparse_linear.stack(
        [sparse_linear.draw((config.seed, *size, t), *size) for t in range(config.trials)]
    )
    return problems, sparse_linear.factor(problems.jacobian, rank)


def on_curve(config: ConfigDict, penalties: np.ndarray, log_gamma: float) -> dict[str, np.ndarray]:
    """Descent, its exact limit and the convex program, for every instance and lambda; [T, A, ...].

    `penalties` [A] are the lambdas; alpha is that of the curve.
    """
    problems, factors = problems_of(config, config.rank, config.sparsity)
    basis = np.repeat(factors.basis, len(penalties), axis=0)
    observed = np.repeat(problems.observed, len(penalties), axis=0)
    penalty = np.tile(penalties, config.trials)
    alpha = sparse_linear.penalty_of(penalty, log_gamma)
    descent = linear_descent.descend(
        basis, observed, alpha, log_gamma, config.max_iterations, config.step_size
    )
    limit = linear_descent.exact_limit(basis, observed, alpha, log_gamma)
    convex = convex_program.solve(basis, observed, penalty)
    lanes = {
        "theta": relative_difference(descent.coordinates, convex.coordinates),
        "s": relative_difference(descent.noise, convex.noise),
        "limit_theta": relative_difference(descent.coordinates, limit.coordinates),
        "limit_s": relative_difference(descent.noise, limit.noise),
        "limit_residual": limit.residual,
        "iterations": descent.iterations,
        "converged": descent.converged,
        "kkt": convex_program.kkt_residual(basis, observed, penalty, convex),
        "descent_coordinates": descent.coordinates,
        "descent_noise": descent.noise,
    }
    shape = config.trials, len(penalties)
    return {key: value.reshape(*shape, *value.shape[1:]) for key, value in lanes.items()}


def programs(
    basis: np.ndarray, observed: np.ndarray, lambdas: np.ndarray
) -> tuple[convex_program.Solution, np.ndarray]:
    """Solutions of every instance at every lambda, and their KKT residuals; axes [T, M, ...]."""
    shape = len(observed), len(lambdas)
    penalty = np.tile(lambdas, len(observed))
    basis, observed = (np.repeat(x, len(lambdas), axis=0) for x in (basis, observed))
    convex = convex_program.solve(basis, observed, penalty)
    kkt = convex_program.kkt_residual(basis, observed, penalty, convex)
    return convex_program.Solution(*(x.reshape(*shape, -1) for x in convex)), kkt.reshape(shape)


def over_lambda(
    config: ConfigDict, lambdas: np.ndarray, curve: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Relative differences [T, A, M] of descent at every alpha and the program at every lambda."""
    problems, factors = problems_of(config, config.rank, config.sparsity)
    convex, kkt = programs(factors.basis, problems.observed, lambdas)

    def differences(descent, solution):
        return relative_difference(descent[:, :, None], solution[:, None])

    return {
        "theta": differences(curve["descent_coordinates"], convex.coordinates),
        "s": differences(curve["descent_noise"], convex.noise),
        "kkt": kkt,
    }


def recovery_errors(
    config: ConfigDict, rank: int, sparsity: int, lambdas: np.ndarray
) -> dict[str, np.ndarray]:
    """Recovery errors, ||theta - theta*|| / ||theta*||, and what Proposition 3.5 says of them.

    'theta', 's' and 'kkt' are [T, M]; 'threshold' (lambda_0), 'coherence' (mu) and 'guaranteed',
    whether the condition of the proposition holds, [T].
    """
    problems, factors = problems_of(config, rank, sparsity)
    convex, kkt = programs(factors.basis, problems.observed, lambdas)
    truth = np.einsum("tpr,tp->tr", factors.right, problems.theta)

    def error(found, true):
        scale = np.linalg.norm(true, axis=-1)[:, None]
        return np.linalg.norm(found - true[:, None], axis=-1) / scale

    return {
        "theta": error(convex.coordinates, truth),
        "s": error(convex.noise, problems.noise),
        "kkt": kkt,
        "threshold": sparse_linear.threshold(factors, problems.theta),
        "coherence": sparse_linear.coherence(factors.left),
        "guaranteed": sparse_linear.recovery_is_guaranteed(factors.left, sparsity),
    }


def critical_points(config: ConfigDict) -> dict[str, np.ndarray]:
    """`landscape.CriticalPoints` of all the small problems, one after the other."""
    found = []
    for number in range(config.landscape_problems):
        problem = sparse_linear.draw((config.seed, number), *LANDSCAPE_SIZE)
        random = np.random.default_rng((config.seed, number, 1))
        found.append(landscape.critical_points(problem, config.landscape_starts, random))
    columns = zip(*found, strict=True)
    return landscape.CriticalPoints(*map(np.concatenate, columns))._asdict()


def against_cvxpy(config: ConfigDict) -> dict[str, np.ndarray]:
    """Relative differences of our solver and CVXPY, each instance with its own random lambda."""
    differences = {"theta": [], "s": []}
    size = config.num_rows, config.num_parameters, config.rank, config.sparsity
    for number in range(config.cvxpy_instances):
        problem = sparse_linear.draw((config.seed, number, 2), *size)
        factors = sparse_linear.factor(problem.jacobian, config.rank)
        bounds = np.log((config.lambda_min, config.lambda_max))
        penalty = np.exp(np.random.default_rng((config.seed, number, 3)).uniform(*bounds))
        theta, noise = convex_program.solve_cvxpy(problem.jacobian, problem.observed, penalty)
        own = convex_program.solve(factors.basis[None], problem.observed[None], np.array([penalty]))
        differences["theta"].append(relative_difference(factors.right @ own.coordinates[0], theta))
        differences["s"].append(relative_difference(own.noise[0], noise))
    return differences
