"""The commands of `lilypad`, each imported when invoked."""

from importlib import import_module
from typing import Any

from typer.core import TyperGroup
from typer.main import get_group

# Module and help line of each command. The help loads no module, since loading all of them would
# make it take half as long again.
COMMANDS = {
    "login": ("account", "Store an API key for later commands."),
    "logout": ("account", "Delete the key that login stored."),
    "keys": ("account", "Create, list and revoke API keys."),
    "usage": ("account", "Show requests by key and day."),
    "generate": ("modules", "Generate the files of a module that runs a model."),
    "download": ("modules", "Download the same module as a zip."),
    "verify": ("modules", "Generate a module and run it on a worker."),
    "generations": ("modules", "List generated modules."),
    "benchmark": ("measuring", "Measure a model at each batch size."),
    "runs": ("measuring", "List the account's runs, or show one."),
    "compare": ("measuring", "Compare models, or runs, side by side."),
    "record": ("monitoring", "Record metrics of one moment."),
    "monitor": ("monitoring", "Summarise a model's last days, with advice."),
    "watch": ("monitoring", "Follow a model live."),
    "alerts": ("monitoring", "List alerts, or follow them live."),
    "models": ("samples", "List the models that were recorded or measured."),
    "samples": ("samples", "Read samples as they were recorded, or delete them."),
    "hub-token": ("protection", "Store, check or delete the account's Hub token."),
    "second-factor": ("protection", "Set up or disable a second factor."),
    "schema": ("account", "Print the JSON Schema of a command's output."),
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
