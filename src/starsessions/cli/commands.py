"""The commands, and what becomes of their errors."""

import sys
from collections.abc import Sequence

from cyclopts import App, Group
from cyclopts.exceptions import CycloptsError

from starsessions import __version__
from starsessions.check.application import unlogged
from starsessions.cli import ending, looking
from starsessions.cli.helping import HelpFormatter
from starsessions.cli.screen import say
from starsessions.cli.target import Unusable
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured

USAGE, UNAVAILABLE, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141

_HELP = """\
See what sessions there are, end them, and check a deployment.

Most commands need to know where the sessions are. With the application, they have its settings and keys:

$ starsessions list ann --app shop.main:app

Without it, name the store, and the cookie if it is not "session":

$ starsessions list ann --store redis://localhost:6379 --cookie shop

To type less, set STARSESSIONS_APP or STARSESSIONS_STORE. Each command has a --help of its own.

A session is named by its handle, which `list` shows. A handle opens nothing, and may be shown to its user. Ids of users
and the data of sessions are on the screen only if you ask for them with --show-values, or by `export`."""

_EPILOGUE = """\
Exit codes:
  0    done
  1    there was a finding, there is no such session, or you have answered no
  2    an option or a setting is wrong
  3    the store does not answer
  130  interrupted with Ctrl-C"""

app: App = App(
    name="starsessions",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    group_parameters=Group("Options", sort_key=0),
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command(looking.keygen)
app.command(looking.check, usage="starsessions check APP [OPTIONS]")
app.command(looking.stats)
app.command(looking.list_sessions, name="list")
app.command(looking.show_session, name="show")
app.command(ending.end, usage="starsessions end (HANDLE | --user USER | --everyone) [OPTIONS]")
app.command(ending.sweep)
app.command(looking.export)
app.command(ending.erase)
app.command(ending.create_table, name="create-table")


def run(arguments: Sequence[str]) -> int:
    """Run a command, and return the exit code."""
    with unlogged():  # a failure is said once, as the error that ends the command
        try:
            code: int | None = app(
                list(arguments),
                exit_on_error=False,
                print_error=False,
                help_on_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
        except CycloptsError as error:
            return _refused(f"{error} See --help.", USAGE)
        except (Unusable, ImproperlyConfigured) as error:
            return _refused(str(error), USAGE)
        except BackendUnavailable as error:
            return _refused(str(error), UNAVAILABLE)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # of `| head`
            return BROKEN_PIPE
    return code or 0


def _refused(why: str, code: int) -> int:
    say(f"starsessions: {why}")
    return code
