//! Archives that were made to hurt, and some that were not.

use std::io::Write;

use ::zip::ZipWriter;
use ::zip::write::SimpleFileOptions;

use super::*;
use crate::model::text::quoted;

/// One entry of an archive that is written by hand, so that each field can lie.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    content: Vec<u8>,
    mode: u32,
    flags: u16,
    method: u16,
    /// What it says its length is, if that is a lie.
    declared: Option<u32>,
}

fn entry(name: &str, content: &str) -> Entry {
    Entry { name: name.into(), content: content.into(), mode: 0o100_644, flags: 0x800, method: 0, declared: None }
}

fn script() -> Entry {
    entry("script.sh", "echo")
}

/// The archive of `entries`, none of it packed.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = bytes.len() as u32;
        let length = entry.declared.unwrap_or(entry.content.len() as u32);
        let mut common = Vec::new();
        for field in [20, entry.flags, entry.method, 0, 0x21] {
            common.extend_from_slice(&u16::to_le_bytes(field));
        }
        for field in [crc32(&entry.content), entry.content.len() as u32, length] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        common.extend_from_slice(&(entry.name.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(b"PK\x03\x04");
        bytes.extend_from_slice(&common);
        bytes.extend_from_slice(&entry.name);
        bytes.extend_from_slice(&entry.content);
        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(entry.mode << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(&entry.name);
    }
    end_archive(bytes, &directory, entries.len() as u16)
}

fn end_archive(mut bytes: Vec<u8>, directory: &[u8], count: u16) -> Vec<u8> {
    let start = bytes.len() as u32;
    bytes.extend_from_slice(directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// The check sum of an entry, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

/// An archive packed by a common writer.
fn packed(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, mode) in entries {
        writer.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn unpacks_what_is_part_of_a_definition() {
    let mac = entry("__MACOSX/._script.sh", "x");
    let folder = Entry { mode: 0o040_755, ..entry("lib/", "") };
    let executable = Entry { mode: 0o100_755, ..script() };
    let no_mode = Entry { mode: 0, ..entry("lib/ä b", "b") };
    let leftovers = [entry("lib/a~", ""), entry(".git/config", ""), entry("lib/.DS_Store", "")];
    let entries = [&[mac, folder, executable, no_mode], leftovers.as_slice()].concat();
    let files = unzip(&archive(&entries)).unwrap();
    let found: Vec<(&str, &[u8], u32)> =
        files.0.iter().map(|(path, file)| (path.as_str(), file.bytes.as_slice(), file.mode)).collect();
    assert_eq!(found, [("lib/ä b", b"b".as_slice(), 0o644), ("script.sh", b"echo", 0o755)]);
}

#[test]
fn a_folder_and_a_zip_of_the_same_files_have_one_hash() {
    use std::os::unix::fs::PermissionsExt;

    let entries: [(&str, &[u8], u32); 4] =
        [("script.sh", b"echo", 0o755), ("lib/a", &[7; 5000], 0o644), ("lib/deep/b", b"", 0o600), ("c", b"c", 0o744)];
    let root = tempfile::tempdir().unwrap();
    for (path, content, mode) in entries {
        let path = root.path().join("batch").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let folder = crate::store::read::BatchesDir::open(root.path()).unwrap();
    let files = folder.read("batch", &crate::store::trust::Trust::insecure()).unwrap().files;
    assert_eq!(unzip(&packed(&entries)).unwrap(), files);
    assert_eq!(unzip(&packed(&entries)).unwrap().hash(), files.hash());
}

#[test]
fn refuses_entries_that_a_definition_can_not_have() {
    let check = |entry: Entry, expected: &str| {
        let error = unzip(&archive(&[script(), entry])).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!error.hint().is_empty());
    };
    check(entry("../x", ""), "can't unpack entry `../x`: the path leads out of the archive");
    check(entry("a/../../x", ""), "can't unpack entry `a/../../x`: the path leads out of the archive");
    check(entry("a/..", ""), "can't unpack entry `a/..`: the path leads out of the archive");
    check(entry("/etc/x", ""), "can't unpack entry `/etc/x`: the path is absolute");
    check(entry("./x", ""), "can't unpack entry `./x`: a part of the path is empty or `.`");
    check(entry("a//x", ""), "can't unpack entry `a//x`: a part of the path is empty or `.`");
    check(entry("..\\x", ""), "can't unpack entry `..\\x`: the path has a backslash; use `/` to separate its parts");
    check(entry("a\0b", ""), "can't unpack entry `a\\0b`: the path has a NUL byte");
    let not_utf8 = Entry { name: b"a\xff".to_vec(), flags: 0, ..entry("", "") };
    check(not_utf8, "can't unpack entry `a\u{fffd}`: the name is not UTF-8");
    let long = "a/".repeat(127) + "xy";
    check(entry(&long, ""), &format!("can't unpack entry `{}`: the path is longer than 255 bytes", quoted(&long)));
    let deep = "a/".repeat(32) + "x";
    check(entry(&deep, ""), &format!("can't unpack entry `{deep}`: the path is nested too deeply"));
    let of_kind = |mode| Entry { mode, ..entry("x", "/etc/passwd") };
    check(of_kind(0o120_777), "entry `x` is a link");
    check(of_kind(0o010_644), "entry `x` is a FIFO");
    check(of_kind(0o020_644), "entry `x` is a device");
    check(of_kind(0o060_644), "entry `x` is a device");
    check(of_kind(0o140_644), "entry `x` is a socket");
    check(of_kind(0o040_755), "entry `x` is a folder without a trailing `/`");
    check(Entry { flags: 0x801, ..entry("x", "secret") }, "entry `x` is encrypted");
    check(Entry { method: 14, ..entry("x", "") }, "entry `x` is compressed with `Lzma`");
    check(script(), "two entries have the same name");
    check(entry("Script.sh", ""), "entries `script.sh` and `Script.sh` differ only in case");
    check(entry("script.sh/x", ""), "entry `script.sh` is both a file and a folder");
}

#[test]
fn a_file_that_is_also_a_folder_is_found_in_either_order() {
    let entries = [entry("a/b/c", ""), script(), entry("A", "")];
    assert_eq!(unzip(&archive(&entries)), Err(ZipError::FileAndFolder("A".to_owned())));
}

#[test]
fn says_where_the_script_is_missing() {
    let check = |names: &[&str], top_folder: Option<&str>| {
        let entries: Vec<Entry> = names.iter().map(|name| entry(name, "")).collect();
        let expected = ZipError::NoScript { top_folder: top_folder.map(str::to_owned) };
        assert_eq!(unzip(&archive(&entries)), Err(expected), "{names:?}");
    };
    check(&[], None);
    check(&["a"], None);
    check(&["load/main.sh", "load/lib/a"], Some("load"));
    check(&["load/deep/script.sh"], Some("load"));
    check(&["load/script.sh", "other/a"], None);
    check(&["load/script.sh", "a"], None);
    let error = ZipError::NoScript { top_folder: Some("load".to_owned()) };
    let expected = "load/load.zip: the archive has no `script.sh` in `load/`, its only top folder\n  \
                    hint: add the script to that folder as `script.sh`, and create the archive again";
    assert_eq!(error.diagnostic(None, "load/load.zip").to_string(), expected);
}

/// As forges and file managers pack a folder.
#[test]
fn the_only_top_folder_is_the_root() {
    let folder = Entry { mode: 0o040_755, ..entry("report-main/", "") };
    let entries = [folder, entry("report-main/script.sh", "echo"), entry("report-main/lib/a", "a")];
    let mac = [entry("__MACOSX/report-main/._script.sh", "x"), entry("__MACOSX/._report-main", "x")];
    for entries in [entries.to_vec(), [entries.as_slice(), &mac].concat()] {
        let files = unzip(&archive(&entries)).unwrap();
        assert_eq!(files.0.keys().collect::<Vec<_>>(), ["lib/a", "script.sh"]);
    }
}

#[test]
fn refuses_bombs() {
    let zeros = vec![0; 1024 * 1024];
    assert_eq!(unzip(&packed(&[("script.sh", &zeros, 0o644)])), Err(ZipError::RatioTooHigh));
    // Bytes that do not pack well make room for the ratio; then the limit of all bytes counts.
    let mut noise = vec![0; 600 * 1024];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let many_zeros = vec![0; DEFINITION_BYTES_MAX as usize];
    let bomb = packed(&[("script.sh", &noise, 0o644), ("zeros", &many_zeros, 0o644)]);
    assert_eq!(unzip(&bomb), Err(ZipError::TooManyBytes));
    let many: Vec<Entry> = (0..ZIP_ENTRIES_MAX).map(|n| entry(&n.to_string(), "")).chain([script()]).collect();
    assert_eq!(unzip(&archive(&many)), Err(ZipError::TooManyEntries));
    assert!(unzip(&archive(&many[1..])).is_ok());
}

/// All entries of the archive's directory lead to the same bytes.
#[test]
fn an_overlapping_bomb_counts_each_time_it_unpacks() {
    let one = archive(&[entry("000", &"x".repeat(100_000))]);
    let start = one.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let record = &one[start..start + 46 + 3];
    let mut directory = Vec::new();
    for n in 0..1000 {
        directory.extend_from_slice(&record[..46]);
        directory.extend_from_slice(format!("{n:03}").as_bytes());
    }
    let bomb = end_archive(one[..start].to_vec(), &directory, 1000);
    assert_eq!(unzip(&bomb), Err(ZipError::RatioTooHigh));
}

#[test]
fn refuses_what_is_damaged_or_lies() {
    let good = archive(&[script(), entry("a", "content")]);
    assert!(unzip(&good).is_ok());
    for length in 0..good.len() {
        assert!(unzip(&good[..length]).is_err(), "cut to {length} bytes");
    }
    for declared in [3, 5, u32::MAX - 1] {
        let lying = archive(&[Entry { declared: Some(declared), ..script() }]);
        assert!(unzip(&lying).is_err(), "declares {declared} bytes");
    }
    let mut wrong_sum = good.clone();
    let content = wrong_sum.windows(7).position(|window| window == b"content").unwrap();
    wrong_sum[content] = b'C';
    assert!(matches!(unzip(&wrong_sum), Err(ZipError::DamagedEntry { name, .. }) if name == "a"));
    assert!(matches!(unzip(b"no archive"), Err(ZipError::Damaged(_))));
}

/// Whatever one byte of an archive becomes, it is unpacked within the rules, or refused.
#[test]
fn survives_every_change_of_one_byte() {
    let good = archive(&[script(), entry("lib/a", "content")]);
    for place in 0..good.len() {
        for value in [0, 1, b'/', b'.', 0x7f, 0x80, 0xff] {
            let mut changed = good.clone();
            changed[place] = value;
            if let Ok(files) = unzip(&changed) {
                assert!(files.0.keys().all(|path| check_path(path).is_ok()), "byte {place} is {value}");
            }
        }
    }
}
