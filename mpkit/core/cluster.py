"""Work for several processes or machines: workers that agree are checked for, answers collected.

A task that fails is an answer, not a reason to try again; a task whose worker died is done again
by the scheduler.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

from mpkit.core.records import device_name, digest, source_texts, versions
from mpkit.core.workers import ClusterError, Workers, library


class Ground(NamedTuple):
    """What all workers have in common.

    Attributes:
        asked: the device as it was asked for, such as "auto".
        device: its name, such as "cpu".
        gpus: that each task needs, 0 or 1.
        drawn: the number that each worker drew there.
        state: versions of packages, and of mpkit's source.
    """

    asked: str
    device: str
    gpus: int
    drawn: int
    state: dict[str, str]


@contextmanager
def opened(place: Workers, tasks: int, device: str, seed: int = 0) -> Iterator[tuple[Any, Ground]]:
    """A client whose workers were checked: same code, same versions, same device, resources.

    Args:
        place: where to run.
        tasks: how many tasks there will be.
        device: what they compute on, as a worker resolves it.
        seed: of the number that every worker draws on its device.
    Raises: ClusterError: see the places and ``common_ground``.
    """
    with ExitStack() as stack:
        client = place.client(stack, tasks)
        stack.enter_context(client.as_current())
        yield client, common_ground(client, place.gpus, device, seed)


@cache
def code_state() -> dict[str, str]:
    """What must be the same on every worker: versions of packages, and mpkit's source.

    Looked at once in a process, since what is imported stays as it was.
    """
    return {**versions(), "mpkit's source": digest(source_texts())[:10]}


def probe(device: str, seed: int, dask_worker: Any = None) -> dict[str, Any]:
    """What a worker says of itself; runs there."""
    import torch

    from mpkit.core.devices import resolve_device

    where = {"resources": dict(dask_worker.state.total_resources), "state": code_state()}
    try:
        chosen = resolve_device(device)
        rng = torch.Generator(chosen).manual_seed(seed)
        drawn = int(torch.randint(2**62, (), generator=rng, device=chosen))
        return {**where, "device": device_name(device), "drawn": drawn}
    except ValueError as error:
        return {**where, "problem": str(error)}


def common_ground(client: Any, gpus: int, device: str, seed: int) -> Ground:
    """Check all workers before anything is sent to them.

    Raises:
        ClusterError: no worker has the resources; a worker has other packages or another mpkit,
            lacks the device, or has another kind of device than the rest.
    """
    answers, mine = client.run(probe, device, seed, on_error="return"), code_state()
    for address, answer in answers.items():
        if isinstance(answer, BaseException):
            raise ClusterError(
                f"worker {address} cannot load this mpkit ({type(answer).__name__}: {answer}); "
                "install the same version there"
            )
        _require_same_code(address, answer["state"], mine)
    able = {at: one for at, one in answers.items() if one["resources"].get("GPU", 0) >= gpus}
    if not able:
        raise ClusterError(
            f"none of the {len(answers)} workers offers a GPU; start some with 'dask worker "
            "ADDRESS --nthreads 1 --resources GPU=1' on a machine that has one, or leave out --gpu"
        )
    for address, answer in able.items():
        if "problem" in answer:
            raise ClusterError(f"worker {address}: {answer['problem']}")
    kinds = {answer["device"]: address for address, answer in able.items()}
    if len(kinds) > 1:
        found = ", ".join(f"{name} ({address})" for name, address in kinds.items())
        raise ClusterError(
            f"the workers have different devices, whose results differ: {found}; ask for one kind "
            "with --gpu or device cpu, or start workers of one kind"
        )
    first = next(iter(able.values()))
    return Ground(device, first["device"], gpus, first["drawn"], first["state"])


def _require_same_code(worker: str, state: Mapping[str, str], mine: Mapping[str, str]) -> None:
    other = [name for name in mine if state.get(name) != mine[name]]
    other += [name for name in state if name not in mine]
    if other:
        words = ", ".join(
            f"{name} {state.get(name, 'missing')} there, {mine.get(name, 'missing')} here"
            for name in other
        )
        raise ClusterError(
            f"worker {worker} would give other results: {words}; install the same versions on "
            "every machine (requirements.lock) and start the worker again"
        )


def answers(
    client: Any,
    ground: Ground,
    function: Callable[..., Any],
    jobs: Mapping[str, Sequence[Any]],
    halt: Callable[[list[str]], None] = lambda keys: None,
) -> Iterator[tuple[str, Any]]:
    """Run a function on workers for every job; pairs of key and result, in the order they end.

    A job that raises gives its exception as the result. If the caller stops listening, what waits
    is cancelled and ``halt`` is run, with the keys, on the workers that are at it.

    Args:
        client: a Dask client.
        ground: what its workers must have; one that came later and has not refuses.
        function: importable on the workers; called with the words of its job.
        jobs: key to words; keys are unique among all users of the scheduler.
        halt: importable on the workers.
    Raises: ClusterError: the scheduler is gone.
    """
    distributed = library()
    needs = {"GPU": ground.gpus} if ground.gpus else {}
    options = {"resources": needs, "retries": 0, "pure": False}
    futures = [
        client.submit(on_same_ground, ground, function, *words, key=key, **options)
        for key, words in jobs.items()
    ]
    left = {future.key for future in futures}
    try:
        for future in distributed.as_completed(futures):
            if future.status not in ("finished", "error"):
                raise ClusterError(
                    "the connection to the scheduler was lost; what was finished is kept: run the "
                    "same command again to go on"
                )
            left.discard(future.key)
            error = future.exception() if future.status == "error" else None
            yield future.key, _in_words(error) if error else future.result()
            future.release()
    finally:
        if left and client.status == "running":
            busy = [w for w, keys in client.processing().items() if left & set(keys)]
            client.cancel(futures)
            if busy:
                client.run(halt, sorted(left), workers=busy, on_error="ignore")


def on_same_ground(ground: Ground, function: Callable[..., Any], *words: Any) -> Any:
    """Call a function, on a worker that is as the others are; a ClusterError where it is not."""
    mine = code_state()
    _require_same_code(socket.gethostname(), mine, ground.state)
    if device_name(ground.asked) != ground.device:
        raise ClusterError(
            f"worker {socket.gethostname()} has the device {device_name(ground.asked)}, the others "
            f"{ground.device}; start workers of one kind"
        )
    return function(*words)


def _in_words(error: BaseException) -> BaseException:
    if type(error).__name__ != "KilledWorker":
        return error
    return ClusterError(
        "every worker that tried this died; most often memory ran out: ask for less, or give the "
        "workers more memory"
    )
