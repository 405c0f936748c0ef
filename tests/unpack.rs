//! The child that unpacks zips, as the real binary: an archive that was made to hurt kills at most the child.

use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;

use batchd::store::unpack::unzip_in_child;
use batchd::store::zip::{ZipError, unzip};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const PROGRAM: &str = env!("CARGO_BIN_EXE_batchd");

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn the_child_answers_what_the_walker_finds() {
    let large: Vec<u8> = (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let archives = [
        archive(&[("script.sh", b"echo"), ("lib/large", &large)]),
        archive(&[("below/script.sh", b"echo")]),
        archive(&[("script.sh", b""), ("../escaped", b"")]),
        archive(&[("script.sh", &vec![0; 1 << 20])]),
        b"no archive".to_vec(),
        Vec::new(),
    ];
    for bytes in archives {
        assert_eq!(unzip_in_child(Path::new(PROGRAM), &bytes), unzip(&bytes));
    }
}

/// Only the parser of the archive's directory sees how many entries there are, when it has them all in memory.
#[test]
fn a_directory_of_a_million_entries_is_refused() {
    let mut record = b"PK\x01\x02".to_vec();
    record.resize(46, 0);
    record[28] = 7;
    let directory: Vec<u8> =
        (0..1_200_000).flat_map(|n: u32| [record.as_slice(), format!("{n:07}").as_bytes()].concat()).collect();
    // The end in the 64-bit form, which can say how many they are; then its locator, then the old end, which defers to it.
    let length = (directory.len() as u64).to_le_bytes();
    let count = 1_200_000_u64.to_le_bytes();
    let mut bytes = directory;
    bytes.extend_from_slice(b"PK\x06\x06");
    bytes.extend_from_slice(&44_u64.to_le_bytes());
    bytes.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[count, count, length, [0; 8]].concat());
    bytes.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
    let error = unzip_in_child(Path::new(PROGRAM), &bytes).unwrap_err();
    assert!(matches!(error, ZipError::ChildDied(_) | ZipError::TooManyEntries), "{error}");
}

#[test]
fn a_program_that_is_no_child_is_an_error() {
    let check = |program: &str, expected: &str| {
        let error = unzip_in_child(Path::new(program), b"").unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check("/nonexistent", "can't unpack the archive now: ");
    check("/bin/false", "unpacking the archive failed, or took too much memory or time (exit status: 1)");
    let folder = tempfile::tempdir().unwrap();
    let killed = folder.path().join("killed");
    // Written by another process: a descriptor of ours could be held open by a child of another test, and "text file busy".
    let text = r"printf '#!/bin/sh\nprintf .; kill -KILL $$\n' > killed && chmod 755 killed";
    assert!(Command::new("sh").args(["-c", text]).current_dir(&folder).status().unwrap().success());
    check(
        killed.to_str().unwrap(),
        "unpacking the archive failed, or took too much memory or time (signal: 9 (SIGKILL))",
    );
    check("/bin/true", "unpacking the archive failed, or took too much memory or time (its answer is not whole: ");
}
