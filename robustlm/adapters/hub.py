"""Upload of a tuned adapter to the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]


def check_hub(repo: str) -> None:
    """Raise if a later upload cannot work. Called before training; sends no request.

    Args:
        repo: Name of the repository, `user/name`.

    Raises:
        ValueError: `repo` is not a valid name of a repository, or this machine has no token for the hub.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"hub: found {repo!r}; expected user/name ({error})") from error
    if huggingface_hub.get_token() is None:
        raise ValueError("hub: this machine has no token for the hub; log in by `hf auth login`, or set $HF_TOKEN")


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload a folder to a repository of the hub; the repository is created if it is missing.

    Args:
        folder: Folder of an adapter or a model.
        repo: Name of the repository, `user/name`.
        private: Whether a new repository is private; an existing one is not changed.

    Returns:
        Address of the repository.

    Raises:
        ValueError: The upload failed; the message names the folder and the command that tries again.
    """
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo, commit_message="Add what robustlm tuned")
    except Exception as error:  # network, hub or permission errors: the run is over and must not look lost
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"hub: {folder} is saved, but was not uploaded to {repo}: {reason}\ntry again with: "
            f"{shlex.join(['hf', 'upload', repo, str(folder)])}"
        ) from error
    return str(address)
