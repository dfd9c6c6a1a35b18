"""Base class of the answer types."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """An answer with its fields as snake_case attributes.

    `answer["optimal_batch_size"]` takes the API's own names, also those of fields that this
    version of the client does not know. `to_dict()` is the JSON of the answer.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as the API sent it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def __getitem__(self, name: str) -> Any:
        for attribute, field in type(self).model_fields.items():
            if name == (field.alias or attribute):
                return getattr(self, attribute)
        return (self.model_extra or {})[name]
