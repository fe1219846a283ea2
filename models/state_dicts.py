"""Find the tensors of a ResNet in a file, nested in dicts and under a prefix."""

from pathlib import Path
from typing import Any

from utils.errors import UserError, listed

PREFIX = "encoder_q."  # of the query encoder's tensors, in MoCo and in SeCo
# Two tensors that only a complete ResNet has, by torchvision's names and by position.
_LANDMARKS = (("conv1.weight", "layer1.0.conv1.weight"), ("0.weight", "4.0.conv1.weight"))
_Keys = tuple[str, ...]  # path of keys to a nested dict
_NESTING = 2  # dicts around a state dict, such as {"model": {"student": state}}


def find_encoder(content: dict[Any, Any], path: Path) -> tuple[dict[Any, Any], str]:
    """Find the only ResNet of a file; in files of SeCo and MoCo, the query encoder.

    Args:
        content: Content of the file.
        path: The file, for errors.

    Returns:
        Its tensors, and the prefix that their names had.

    Raises:
        UserError: The file has several encoders.
    """
    state = content.get("state_dict")
    # A checkpoint of Lightning may also hold the weights of its best epoch: state_dict decides.
    decides = isinstance(state, dict) and any(_prefixes(own) for _, own in nested_dicts(state))
    searched = {"state_dict": state} if decides else content
    found = [
        (keys, prefix, own) for keys, own in nested_dicts(searched) for prefix in _prefixes(own)
    ]
    found = [one for one in found if one[1] == PREFIX or one[1].endswith(f".{PREFIX}")] or found
    if len(found) > 1:
        names = ["".join(f"{key} > " for key in keys) + f"{prefix}*" for keys, prefix, _ in found]
        raise UserError(
            f"{path} holds {len(found)} encoders, {listed(names, 6)}: save the state dict of one "
            "of them with torch.save"
        )
    if found:
        _, prefix, state = found[0]
    else:
        state = content.get("state_dict", content)
        if not isinstance(state, dict):
            raise UserError(f"{path} is not a checkpoint: its state_dict is not a dict")
        is_query = any(isinstance(key, str) and key.startswith(PREFIX) for key in state)
        prefix = PREFIX if is_query else ""
    return _without(prefix, state), prefix


def nested_dicts(content: dict[Any, Any]) -> list[tuple[_Keys, dict[Any, Any]]]:
    """Return a dict and the dicts in it, each once, with the path of keys to it."""
    level: dict[int, tuple[_Keys, dict[Any, Any]]] = {id(content): ((), content)}
    found = dict(level)
    for _ in range(_NESTING):
        level = {
            id(value): ((*keys, key), value)
            for keys, state in level.values()
            for key, value in state.items()
            if isinstance(key, str) and isinstance(value, dict) and id(value) not in found
        }
        found |= level
    return list(found.values())


def _prefixes(state: dict[Any, Any]) -> list[str]:
    """List the prefixes of a state dict whose removal leaves the names of a ResNet."""
    found = dict[str, None]()
    for first, other in _LANDMARKS:
        for key in state:
            if isinstance(key, str) and key.endswith(first):
                prefix = key.removesuffix(first)
                if (not prefix or prefix.endswith(".")) and f"{prefix}{other}" in state:
                    found[prefix] = None
    return list(found)


def _without(prefix: str, state: dict[Any, Any]) -> dict[Any, Any]:
    """Remove a prefix from the names that have it, and drop the other tensors."""
    if not prefix:
        return state  # the same object, because its attributes may hold the contract
    own = [key for key in state if isinstance(key, str) and key.startswith(prefix)]
    return {key.removeprefix(prefix): state[key] for key in own}
