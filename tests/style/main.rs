//! The house style of the whole tree, as far as a program can check it: plain English, lines that
//! fit a page, files and structs that are one idea. CONTRIBUTING.md gives the reasons.

mod phrases;
mod pictures;
mod prose;
mod sizes;
mod tree;
