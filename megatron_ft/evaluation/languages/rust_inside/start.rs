//! Says that the program's box stands, then becomes the program: START PROGRAM IN OUT.
//!
//! A program's own code may run before its main, so that no main can be trusted to say it.

use std::fs::File;
use std::io::Write;
use std::os::unix::io::FromRawFd;
use std::os::unix::process::CommandExt;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let mut out = unsafe { File::from_raw_fd(words[3].parse().unwrap()) };
    out.write_all(b"\x01\0\0\0!").unwrap();
    std::mem::forget(out);
    panic!("{}", std::process::Command::new(&words[1]).args(&words[2..]).exec());
}
