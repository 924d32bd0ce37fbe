"""How the first store comes to hide what is below: in the spelling of container images, or in overlayfs's own.

In that of images a name is whited out first, while it still stands there, as a whiteout beside it does not hide it; then
it is deleted or moved in one step. Overlayfs's whiteout stands in the place of the name, so the step puts it there.
"""

from joinfs.joined.found import Found
from joinfs.joined.steps import Marking, Steps
from joinfs.joined.whiteout import (
    BOOKKEEPING,
    OVERLAY,
    REDIRECT,
    TRUSTED_OVERLAY,
    fits,
    is_whited_out,
    make_opaque,
    remove_whiteout,
    unmarked,
    white_out,
)
from joinfs.stores import Stat, Store
from joinfs.stores.keys import directory_key, is_directory_key, split
from joinfs.stores.value import Metadata, new_stat

_WHITEOUT = 0o020000
# In a directory of the first store, what is not yet in its place, or not any more. Nothing of a join can be called that.
WORK = BOOKKEEPING + "work"


class ImageMarking(Marking):
    """The spelling of OCI image layers, and joinfs's own redirects."""

    def is_whited_out(self, key: str) -> bool:
        return is_whited_out(self._upper, *split(key))

    def uncover(self, key: str) -> None:
        remove_whiteout(self._upper, *split(key))

    def delete(self, key: str, in_upper: bool, hides: bool) -> None:
        if hides:
            self._white_out(key)
        if in_upper:
            self._steps.remove_hidden(key)

    def move(self, old: str, new: str, target: Found | None, hides: bool) -> None:
        if target is not None and target.stat.is_directory:
            self._steps.have(target, new)
            if self._steps.hides_below(new):
                self._white_out(new)
            self._steps.clear_marks(new)
        whited_out = target is None and self._steps.hides_below(new) and self.is_whited_out(new)
        if hides:
            self._white_out(old)
        self._upper.rename(old, new)
        if whited_out and not is_directory_key(new):
            self.uncover(new)

    def exchange(self, first: str, second: str) -> None:
        for key in (first, second):
            if self._steps.hides_below(key):
                self._white_out(key)
        self._upper.exchange(first, second)

    def link(self, old: str, new: str, whited_out: bool) -> Stat:
        stat = self._upper.link(old, new)
        if whited_out:
            self.uncover(new)
        return stat

    def make_directory(self, key: str, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes], whited_out: bool) -> Stat:
        """The same; the whiteout beside it hides what is below until the directory is opaque itself."""
        made = self._upper.put(key, stat, None, metadata, xattrs)
        if not whited_out:
            return made
        make_opaque(self._upper, key)
        self.uncover(key)
        return self._upper.set_stat(key, mtime=made.mtime, atime=made.atime)

    def redirect(self, directory: str, lower_key: str) -> None:
        self._upper.set_metadata(directory, {**self._upper.get_metadata(directory), REDIRECT: lower_key})

    def _white_out(self, key: str) -> None:
        directory, name = split(key)
        self._steps.have_directory(directory)
        white_out(self._upper, directory, name)
        if not fits(name):
            self._steps.forget()


class OverlayMarking(Marking):
    """Overlayfs's spelling: character devices 0/0, and extended attributes.

    Args:
        trusted: Whether attributes are ``trusted.overlay.``, which root alone sees and sets; else ``user.overlay.``,
            which overlayfs reads if it is mounted with ``userxattr``.

    See Also:
        Documentation/filesystems/overlayfs.rst: whiteouts and opaque directories, redirect_dir.
    """

    replaces = True

    def __init__(self, steps: Steps, upper: Store, trusted: bool) -> None:
        super().__init__(steps, upper)
        self._trusted = trusted

    def is_whited_out(self, key: str) -> bool:
        try:
            stat = self._upper.lookup(key.removesuffix("/"))
        except KeyError:
            return False
        return stat.mode & 0o170000 == _WHITEOUT and stat.rdev == 0

    def uncover(self, key: str) -> None:
        """The same: what was put there has replaced it."""

    def delete(self, key: str, in_upper: bool, hides: bool) -> None:
        directory, bare = split(key)[0], key.removesuffix("/")
        if not in_upper:
            self._steps.have_directory(directory)
            self._white_out(bare)
        elif not is_directory_key(key):
            if hides:
                self._white_out(bare)
            else:
                self._upper.delete(key)
        else:
            work = self._fresh(directory)
            if hides:
                self._white_out(work)
                self._upper.exchange(work, key)
            else:
                self._upper.rename(key, work + "/")
            self._drop(work)

    def move(self, old: str, new: str, target: Found | None, hides: bool) -> None:
        if target is not None and target.stat.is_directory:
            self._clear(target, new)
        if self._steps.hides_below(new):
            self._make_opaque(old)
        if is_directory_key(old) and self.is_whited_out(new):  # what is no directory is replaced by none
            self._upper.exchange(old, new.removesuffix("/"))
            if not hides:
                self._upper.delete(old.removesuffix("/"))
        elif hides:
            self._upper.rename_whited_out(old, new)
        else:
            self._upper.rename(old, new)

    def exchange(self, first: str, second: str) -> None:
        for key, other in ((first, second), (second, first)):
            if self._steps.hides_below(other):
                self._make_opaque(key)
        self._upper.exchange(first, second)

    def link(self, old: str, new: str, whited_out: bool) -> Stat:
        if not whited_out:
            return self._upper.link(old, new)
        work = self._fresh(split(new)[0])
        stat = self._upper.link(old, work)
        self._upper.rename(work, new)
        return stat

    def make_directory(self, key: str, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes], whited_out: bool) -> Stat:
        if not whited_out:
            return self._upper.put(key, stat, None, metadata, xattrs)
        work = self._fresh(split(key)[0])
        made = self._upper.put(work + "/", stat, None, metadata, xattrs)
        self._mark(work + "/", "opaque", "y")
        self._upper.exchange(work + "/", key.removesuffix("/"))
        self._upper.delete(work)
        return made

    def redirect(self, directory: str, lower_key: str) -> None:
        self._mark(directory, "redirect", "/" + lower_key.removesuffix("/"))

    # ---------------------------------------------------------------- steps

    def _white_out(self, key: str) -> None:
        self._upper.put(key, new_stat(_WHITEOUT, *self._upper._default_owner()))

    def _mark(self, directory: str, name: str, value: str) -> None:
        if self._trusted:
            self._upper.set_xattr(directory, TRUSTED_OVERLAY + name, value.encode("utf-8", "surrogateescape"))
        else:
            self._upper.update_metadata(directory, {OVERLAY + name: value})

    def _make_opaque(self, key: str) -> None:
        """Have a directory that the first store has alone show nothing of what is below where it goes."""
        if is_directory_key(key) and self._steps.is_alone(key):
            self._mark(key, "opaque", "y")

    def _clear(self, target: Found, directory: str) -> None:
        """Have the first store's part of a directory that shows nothing be really empty, if it has one."""
        if not self._steps.has(directory) or not any(True for _ in self._upper.list(directory)):
            return
        work = self._fresh(split(directory)[0])
        self._upper.put(work + "/", target.stat, None, unmarked(self._upper.get_metadata(directory)))
        self._mark(work + "/", "opaque", "y")
        self._upper.exchange(work + "/", directory)
        self._drop(work)

    def _fresh(self, directory: str) -> str:
        """A key in a directory of the first store where nothing is: what a crash has left there goes."""
        work = directory + WORK
        try:
            stat = self._upper.lookup(work)
        except KeyError:
            return work
        if stat.is_directory:
            self._drop(work)
        else:
            self._upper.delete(work)
        return work

    def _drop(self, work: str) -> None:
        """Delete a directory that is out of the way, and the marks in it."""
        for name, stat in tuple(self._upper.list(directory_key(work))):
            key = f"{directory_key(work)}{name}"
            if stat.is_directory:
                self._drop(key)
            else:
                self._upper.delete(key)
        self._upper.delete(directory_key(work))
