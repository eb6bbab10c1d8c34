"""The command ``mpkit audit``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpkit.cli.options import count, require_place

if TYPE_CHECKING:
    from mpkit.audit import Subject

LIBRARIES = ("mpkit", "foolbox", "torchattacks", "ART", "cleverhans", "adv-lib", "autoattack")
NORMS = ("linf", "l2", "l1")


@click.command()
@click.option(
    "--library",
    "libraries",
    type=click.Choice(LIBRARIES),
    multiple=True,
    help="All attacks of a library that are known here; may be repeated.",
)
@click.option(
    "--attack",
    "specs",
    metavar="MODULE:FUNCTION",
    multiple=True,
    help="An attack of your own, see below; may be repeated.",
)
@click.option(
    "--norm",
    "norms",
    type=click.Choice(NORMS),
    multiple=True,
    help="Balls to search in; needed for --attack. [default: all that a library's attacks have]",
)
@click.option("--only", metavar="WORD", help="Only a library's attacks with this in their name.")
@count("--steps", default=40, help="Gradients for each image that an attack may take, at least 10.")
@count("--seeds", default=2, help="Problems of each size in the exact checks.")
@click.option(
    "--exact", is_flag=True, help="Only the exact checks: no gap, strength and time. Twice as fast."
)
@click.option("--strict", is_flag=True, help="End with code 1 for observations, too.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all findings and numbers to this file, as JSON.",
)
@click.pass_context
def audit(
    ctx: click.Context,
    libraries: tuple[str, ...],
    specs: tuple[str, ...],
    norms: tuple[str, ...],
    only: str | None,
    steps: int,
    seeds: int,
    exact: bool,
    strict: bool,
    output: Path | None,
) -> None:
    """Check attacks of any library: allowed, told truly, tidy, and how strong?

    Each attack is run on small problems, the smallest first, and what it returns is held against
    its set in 64-bit numbers, a second prediction and a second call. Then come traces in the
    network, memory, the known optimum of linear models, a trained network and the clock.

    \b
    violation    what no attack should do: leaves its set, a wrong success flag,
                 another result for the same seed, gradients or modes left behind,
                 inputs changed, memory kept, nothing done and nothing said
    observation  what one should know: counts clean errors, forgets a success,
                 is far from the optimum, weak or slow at its price

    Every finding names the smallest input that shows it. Takes five to fifteen seconds an attack.

    \b
    Exit code: 0 no violation, 1 some, 2 the options or the attack cannot be used.

    \b
    Examples:
      mpkit audit --library foolbox --norm l1
      mpkit audit --library mpkit --library autoattack --output audit.json
      mpkit audit --attack my_attacks:pgd --norm linf --norm l2

    \b
    my_attacks.py in the current folder then holds:
      def pgd(model, x, y, task):      # task: eps, norm, p, steps, seed, ball
          torch.manual_seed(task.seed)
          attack = MyPGD(model, eps=task.eps, steps=task.steps)
          images = attack(x, y)        # x in [0, 1], B x C x H x W
          return images, attack.success    # or the images alone
    """
    import torch

    from mpkit.audit import MalformedAttack, report
    from mpkit.audit import audit as examine
    from mpkit.core import records

    if output is not None:
        require_place("--output", output)
    begun, reports = time.monotonic(), []
    torch.set_num_threads(1)  # the same arithmetic twice, and a clock of one core
    try:
        chosen = subjects_of(libraries, specs, norms, only)
        for number, subject in enumerate(chosen, 1):
            click.echo(f"{number}/{len(chosen)} {subject.library} {subject.name}", err=True)
            reports.append(examine(subject, steps, seeds, measures=not exact))
    except (MalformedAttack, ValueError) as error:
        raise click.UsageError(str(error)) from error
    click.echo(report.table(reports))
    if listing := report.listing(reports):
        click.echo(f"\n{listing}")
    click.echo(f"\n{report.verdict(reports)}")
    if output is not None:
        parameters: dict[str, Any] = {
            "libraries": list(libraries),
            "attacks": list(specs),
            "norms": list(norms),
            "only": only,
            "steps": steps,
            "seeds": seeds,
            "exact": exact,
            "seed": 0,
        }
        spent = time.monotonic() - begun
        facts = records.provenance(parameters, records.CHECKOUT, spent, "audit")
        records.write_record(output, {**facts, **report.record(reports)})
        click.echo(f"record: {output}")
    if any(one.violations or (strict and one.findings) for one in reports):
        ctx.exit(1)


def subjects_of(
    libraries: tuple[str, ...], specs: tuple[str, ...], norms: tuple[str, ...], only: str | None
) -> list[Subject]:
    """The attacks that the options name.

    Raises: ValueError: none, or one that cannot be used.
    """
    from mpkit.audit import own
    from mpkit.audit.libraries import subjects
    from mpkit.audit.protocol import NORMS as KINDS

    if specs and not norms:
        raise ValueError("--attack: give --norm too, such as --norm linf")
    kinds = [KINDS[norm] for norm in norms or NORMS]
    there = [one for library in libraries for one in subjects(library) if one.kind in kinds]
    chosen = [one for one in there if only is None or only in one.name]
    chosen += [own(spec, norm) for spec in specs for norm in norms]
    if not chosen:
        words = f"none of {len(there)} attacks fits --norm and --only" if libraries else "nothing"
        raise ValueError(f"audit: {words} to audit; give --library or --attack")
    return chosen
