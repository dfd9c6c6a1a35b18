"""The commands of `lilypad`, each imported when invoked."""

from importlib import import_module
from typing import Any

from typer.core import TyperGroup
from typer.main import get_group

# Module and help line of each command. The help loads no module, since loading all of them would
# make it take half as long again.
COMMANDS = {
    "login": ("account", "Keep a key for the commands that follow."),
    "logout": ("account", "Forget the key that login kept."),
    "keys": ("account", "Make, list and revoke API keys."),
    "usage": ("account", "Show the requests of each key on each day."),
    "generate": ("modules", "Generate the files of a module that runs a model."),
    "download": ("modules", "Download the same module as a zip."),
    "verify": ("modules", "Generate a module and have a worker run it."),
    "generations": ("modules", "List the modules that were generated."),
    "benchmark": ("measuring", "Measure a model at each batch size."),
    "runs": ("measuring", "List the account's runs, or show one."),
    "compare": ("measuring", "Compare models, or runs, side by side."),
    "record": ("monitoring", "Record what was measured at one moment."),
    "monitor": ("monitoring", "Summarise a model's last days, with advice."),
    "watch": ("monitoring", "Follow a model live."),
    "alerts": ("monitoring", "List alerts, or follow them live."),
    "models": ("samples", "List the models that were recorded or measured."),
    "samples": ("samples", "Read samples as they were recorded, or delete them."),
    "hub-token": ("protection", "Keep the account's own token of the Hub."),
    "second-factor": ("protection", "Ask for a code beside the password."),
    "schema": ("account", "Print the JSON Schema of what a command prints."),
    "demo": ("account", "Start the demonstration on this machine."),
}


class Commands(TyperGroup):
    """The top-level group: lists commands by name, and imports only the invoked command."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # The names, for completion and for advice on a misspelt one.
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"lilypad_client.cli.{COMMANDS[cmd_name][0]}")
        return get_group(module.app).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])
