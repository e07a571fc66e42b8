"""facestream: real-time face recognition for video. Cameras in, identity events out.

The root package holds what every room shares: the version and the one exception tree.

    FacestreamError                    exit code 1
    ├── ConfigError                    2   a configuration key, value or argument is wrong
    ├── SourceError                    3   video cannot be read
    │   ├── SourceMissing                  no such file, folder or device
    │   ├── SourceCorrupt                  opened, but it is not readable video
    │   └── SourceUnreachable              a camera or server does not answer
    │       └── SourceStalled              it answered, then went silent (stream/decode)
    ├── ModelError                     4   a model pack cannot be used
    │   ├── UnknownPack                    no card of that name
    │   ├── MissingModelFile               the card names a file that is not on this machine
    │   ├── CorruptModelFile               wrong checksum, truncated, or not the network expected
    │   ├── PullFailed                     the package client could not bring an archive
    │   └── BackendUnavailable             the asked-for runtime or accelerator is not there
    ├── GalleryError                   5   the gallery cannot be read or changed
    │   ├── GalleryUnreadable              not a gallery, newer than the code, locked
    │   │   └── GalleryMissing                 there is none at that place
    │   ├── GalleryEmpty                   nobody is enrolled where somebody must be
    │   ├── UnknownIdentity                no such identity
    │   └── EnrolmentRefused               a photo was refused; the reason is in words
    ├── JournalError                   6   the event journal cannot be written or read
    │   └── DiskFull                       nothing stored is lost; free space, start again
    ├── PublishError                   7   a socket cannot be opened (port in use, bad endpoint)
    │   ├── EventError                     a message is no event (stream/events)
    │   └── KeyRefused, NotAllowed, VersionTooNew, EventsLost: what a subscriber meets
    │                                      (stream/client_errors)
    ├── SightingsError                 10  the sighting store cannot be changed
    │   ├── SightingsUnreadable            not a sighting store, newer than the code, locked
    │   └── UnknownSighting                no such sighting, or stranger
    ├── TrainingError                  9   a training run cannot go on; its checkpoints stay
    └── RecordError                    8   a record has wrong shapes (a bug; also a ValueError)
        └── WireError                      a message between nodes is no record (stream/carriers)

A message says what was expected, what was got and what to do next. An interrupt (Ctrl-C) ends
with 130 after everything decided has been flushed.
"""

from __future__ import annotations

__version__ = "0.1.0"


class FacestreamError(Exception):
    """Root of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(FacestreamError):
    """A configuration key, value or argument is wrong."""

    exit_code = 2


class SourceError(FacestreamError):
    """Video cannot be read."""

    exit_code = 3


class SourceMissing(SourceError):
    """The named file, folder or device does not exist."""


class SourceCorrupt(SourceError):
    """The source was opened but does not hold readable video."""


class SourceUnreachable(SourceError):
    """A camera or server does not answer."""


class ModelError(FacestreamError):
    """A model pack cannot be used."""

    exit_code = 4


class UnknownPack(ModelError):
    """No card of that name."""


class MissingModelFile(ModelError):
    """The card names a file that is not on this machine."""


class CorruptModelFile(ModelError):
    """A model file has the wrong checksum, is truncated, or is not the network expected."""


class PullFailed(ModelError):
    """The package client could not bring an archive."""


class BackendUnavailable(ModelError):
    """The runtime or accelerator that was asked for is not there."""


class GalleryError(FacestreamError):
    """The gallery cannot be read or changed."""

    exit_code = 5


class GalleryUnreadable(GalleryError):
    """The file is not a gallery, is newer than the code, or is locked."""


class GalleryMissing(GalleryUnreadable):
    """There is no gallery at that place."""


class GalleryEmpty(GalleryError):
    """Nobody is enrolled where somebody must be."""


class UnknownIdentity(GalleryError):
    """No identity of that name is in the gallery."""


class EnrolmentRefused(GalleryError):
    """A photo was refused; the message gives the reason in words."""


class JournalError(FacestreamError):
    """The event journal cannot be written or read."""

    exit_code = 6


class DiskFull(JournalError):
    """No space is left under the journal; what is stored stays intact."""


class PublishError(FacestreamError):
    """A socket cannot be opened."""

    exit_code = 7


class SightingsError(FacestreamError):
    """The sighting store cannot be changed."""

    exit_code = 10


class SightingsUnreadable(SightingsError):
    """The file is not a sighting store, is newer than the code, or is locked."""


class UnknownSighting(SightingsError):
    """No sighting, or recurring stranger, has that id."""


class TrainingError(FacestreamError):
    """A training run cannot go on: its loss is not finite, or its disk is full."""

    exit_code = 9


class RecordError(FacestreamError, ValueError):
    """A record was built from arrays of the wrong shape or type."""

    exit_code = 8
