//! Who gets which piece from whom: pure, no socket, file or clock inside.
