"""The one base of our data models: frozen, strict, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Values that are compared, hashed into files and read back must never drift silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
