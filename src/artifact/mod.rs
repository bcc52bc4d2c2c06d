//! The artifact as a file: hashing it on the controller, unpacking it safely on a host.
