//! Protocols: translation only.
