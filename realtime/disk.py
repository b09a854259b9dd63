"""What a disk that takes no more says, and how to mend it."""

import errno

_MENDS = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file grows larger than the system allows: raise the limit (ulimit -f) or take a lower quality",
    errno.EACCES: "the folder may not be written: choose another one",
    errno.EPERM: "the folder may not be written: choose another one",
    errno.EEXIST: "there is a file where the folder should be: choose another folder",
    errno.ENOTDIR: "there is a file where the folder should be: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENAMETOOLONG: "the file name is too long: choose a shorter one",
}


def reason_and_mend(error: Exception, *, otherwise: str) -> str:
    """Why a file cannot be written, in brackets, and how to mend it: `otherwise` where the error alone does not say."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"({reason}); {_MENDS.get(getattr(error, 'errno', None) or 0, otherwise)}"
