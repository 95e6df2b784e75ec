"""The command line: `python -m qvla VERB`, or `qvla VERB` once the package is installed.

Results go to standard output and everything else to standard error. Exit codes: 0 all is well, 1
some photos could not be captioned or asked about, 2 the command cannot be carried out as asked, 70
a fault in the program, 130 interrupted. A verb's own module is imported only when that verb is
asked for.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from qvla import __version__
from qvla.cli.output import make_safe
from qvla.errors import INTERRUPTED, PROGRAM_FAULT, UNUSABLE, QvlaError

log = logging.getLogger("qvla")


@dataclass(frozen=True)
class Verb:
    """A verb's `module` offers `add_arguments(parser)` and `run(options) -> int`, the exit code."""

    summary: str
    module: str


VERBS = {
    "caption": Verb("caption photos with one variant or all three", "qvla.cli.caption"),
    "ask": Verb("answer questions about photos", "qvla.cli.ask"),
    "evaluate": Verb("caption a data set's photos and score the captions", "qvla.cli.evaluate"),
    "score": Verb("score captions of any system against references", "qvla.cli.score"),
    "data": Verb("fetch, check and count data sets", "qvla.cli.data"),
    "curate": Verb("have an endpoint answer questions about photos", "qvla.cli.curate"),
    "plan": Verb("predict memory and the GPUs that suffice", "qvla.cli.plan"),
    "explore": Verb("count what a way to adapt a model costs and touches", "qvla.cli.explore"),
    "params": Verb("count a model's parameters without loading weights", "qvla.cli.params"),
    "serve": Verb("open the app in a browser", "qvla.cli.serve"),
    "bench": Verb("measure speed and memory as ratios on this machine", "qvla.cli.bench"),
    "train": Verb("fine-tune an adapter", "qvla.tuning.training"),
    "sweep": Verb("train and evaluate many recipes, one record each", "qvla.cli.sweep"),
    "merge": Verb("merge an adapter into its base's weights", "qvla.cli.merge"),
    "import-adapterhub": Verb("convert an AdapterHub adapter", "qvla.cli.import_adapterhub"),
    "worker": Verb("run fine-tune jobs from the queue", "qvla.cli.worker"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code; argparse itself exits for `--help` and bad usage."""
    make_safe()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(arguments)
    _set_up_messages(options.verbose)
    try:
        return options.run(options)
    except QvlaError as error:
        log.debug("Where it came from:", exc_info=True)
        log.error("%s", error)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        log.debug("Where it came from:", exc_info=True)
        log.error(
            "This is a fault in the program (%s: %s); run it again with --verbose for the details.",
            type(error).__name__,
            error,
        )
        return PROGRAM_FAULT


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, `options.run` being what carries it out."""
    parser = argparse.ArgumentParser(
        prog="qvla",
        description="Caption satellite photos with a base, an adapted and a quantised PaliGemma.",
        epilog="Defaults come from environment variables QVLA_MODEL, QVLA_ADAPTER and so on.",
    )
    parser.add_argument("--version", action="version", version=f"qvla {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--verbose", action="store_true", help="tell more on standard error, with stack traces"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(
            name, help=verb.summary, description=_sentence(verb.summary), parents=[common]
        )
        if name == _verb_of(arguments):
            module = import_module(verb.module)
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return parser.parse_args(arguments)


def _verb_of(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _set_up_messages(verbose: bool) -> None:
    """Our own messages to standard error; the libraries' only when asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
