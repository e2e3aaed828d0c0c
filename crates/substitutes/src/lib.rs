//! Substitutes: store items that were built elsewhere (`doc/spec/substitutes.md`).
//!
//! This crate decides. It reads what servers say of an item (a *narinfo*), judges whether an
//! authorised key signed it for the item that was asked for, and checks the contents that arrive.
//! It never touches the network itself: bytes come from a program without privileges, `guix-fetch`,
//! which can withhold and delay them, and nothing else.
