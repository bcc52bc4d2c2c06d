//! Run events, for people and machines.
