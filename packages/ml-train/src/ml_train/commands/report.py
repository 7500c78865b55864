"""ml-train report: a run's curves, experts, speed, configuration and warnings in one HTML file."""

import argparse
from pathlib import Path

from ml_models.files.durable import write_durably
from ml_train import terminal
from ml_train.report.findings import findings
from ml_train.report.planned import compare, read_plan
from ml_train.report.records import ReportError, read_run

DESCRIPTION = "Render the metrics of a run as one self-contained HTML page."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run and where its page is written."""
    parser.add_argument("run", help="The run's --save directory, or its --metrics-file.")
    parser.add_argument(
        "--output",
        default=None,
        help="HTML file to write (default: report.html beside the metrics)",
    )
    parser.add_argument(
        "--plan",
        default=None,
        help="What ml-train plan --json printed for this run: both sets of figures side by side.",
    )
    parser.add_argument("--loss-curve", default=None, help="Write the loss curve here too (.png).")


def run(args: argparse.Namespace) -> int:
    """Write the page, and the loss curve where asked for."""
    records = read_run(Path(args.run))
    compared = compare(read_plan(Path(args.plan)), records) if args.plan else []

    # Imported once the run is read: the figures import numpy, half a second.
    from ml_train.report import figures, page

    output = Path(args.output) if args.output else records.path.with_name("report.html")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_durably(output, page.render_page(records))
        terminal.result(f"wrote {output}")
        if args.loss_curve:
            figures.save_loss_curve(records, Path(args.loss_curve))
            terminal.result(f"wrote {args.loss_curve}")
    except (OSError, ValueError) as error:
        raise ReportError(f"The report cannot be written: {error}.") from error
    last = records.reports[-1]
    terminal.result(f"step {last['iteration']} of {last['train_iters']}: loss {last['loss']:.4f}")
    for pair in compared:
        terminal.result(pair.sentence)
    for sentence in findings(records):
        terminal.result(f"- {sentence}")
    return 0
