"""Builds what certifies erasures."""

from __future__ import annotations

import importlib.metadata

from cloud.gdpr.certificates import Certificates
from cloud.startup.installation import Installation


def certificates(installation: Installation) -> Certificates:
    """The certifier of an installation, on its audit log and under its audit keys."""
    config = installation.config
    version = importlib.metadata.version("luminescent-cloud")
    return Certificates(installation.proofs.evidence, config.keyring, config.sealer, config.clock, version)
