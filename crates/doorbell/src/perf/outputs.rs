//! The files that a run leaves. They are opened before it starts, so that a place that cannot be written is known then, and a file
//! takes its name only when it is complete: nobody ever reads half a result.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
    process,
    sync::{Mutex, PoisonError},
};

use doorbell_report::{csv, hlog};
use doorbell_result::{Document, document::Slice};

use super::options::{Options, Sink};
use crate::{
    output::{leave_stdout, tell},
    scratch,
};

/// All files of a run.
#[derive(Default)]
pub struct Outputs {
    json: Option<Output>,
    csv: Option<Output>,
    hlog: Option<Output>,
    /// Slices come from whichever thread of the run watches.
    ndjson: Mutex<Option<Output>>,
}

impl Outputs {
    /// Opens those that are asked for. Where one cannot be opened the others are there all the same.
    pub fn open(options: &Options) -> (Self, Result<(), String>) {
        let mut failed = Ok(());
        let mut note = |opened: Option<Result<Output, String>>| match opened.transpose() {
            Ok(output) => output,
            Err(why) => {
                failed = Err(why);
                None
            }
        };
        let opened = Self {
            json: note(options.json.as_ref().map(|sink| Output::open("json", sink))),
            csv: note(options.csv.as_ref().map(|sink| Output::open("csv", sink))),
            hlog: note(options.hlog.as_ref().map(|sink| Output::open("hlog", sink))),
            ndjson: Mutex::new(note(options.ndjson.as_ref().map(|sink| Output::stream("ndjson", sink)))),
        };
        (opened, failed)
    }

    /// What a command line that cannot be run leaves.
    pub fn after_a_fault(json: Option<Sink>) -> Self {
        let open = |sink| Output::open("json", &sink).map_err(tell).ok();
        Self { json: json.and_then(open), ..Self::default() }
    }

    /// Writes a line of the time series. The first that cannot be written is the last that is tried.
    pub fn slice(&self, slice: &Slice) {
        let mut ndjson = self.ndjson.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(why)) = ndjson.as_mut().map(|output| output.write(&slice.to_line())) {
            tell(why);
            *ndjson = None;
        }
    }

    /// Writes the others from the complete document.
    ///
    /// # Errors
    /// What could not be written; the rest is.
    pub fn complete(self, document: &Document) -> Result<(), String> {
        let write =
            |output: Option<Output>, text: &dyn Fn() -> String| output.map_or(Ok(()), |one| one.complete(&text()));
        let json = write(self.json, &|| document.to_text());
        let csv = write(self.csv, &|| csv::text(&document.results));
        let hlog = write(self.hlog, &|| hlog::text(document));
        json.and(csv).and(hlog)
    }
}

/// One of them.
pub struct Output {
    /// The option that asked for it.
    option: &'static str,
    writer: Box<dyn Write + Send + Sync>,
    place: String,
    /// The name that the file has while it is not complete, and the one it takes then.
    names: Option<(PathBuf, PathBuf)>,
}

impl Output {
    /// Opens a sink that shows nothing before it is complete. Standard output is not used for anything else from then on.
    ///
    /// # Errors
    /// The option, the place and what the system said.
    pub fn open(option: &'static str, sink: &Sink) -> Result<Self, String> {
        let Sink::File(path) = sink else { return Self::stream(option, sink) };
        // A pipe or a device cannot be replaced; what a link leads to is, and the link stays.
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Self::stream(option, sink);
        }
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let place = path.display().to_string();
        let name = path.file_name().ok_or_else(|| format!("--{option}: {place} names no file"))?;
        let until = path.with_file_name(format!(".{}.{option}-{}", name.to_string_lossy(), process::id()));
        let file = File::create(&until).map_err(|why| wrong(option, &place, &why))?;
        scratch::add(until.clone());
        Ok(Self { option, writer: Box::new(BufWriter::new(file)), place, names: Some((until, path)) })
    }

    /// Opens a sink that shows at once what is written. Standard output is not used for anything else from then on.
    ///
    /// # Errors
    /// As [`Output::open`].
    fn stream(option: &'static str, sink: &Sink) -> Result<Self, String> {
        let Sink::File(path) = sink else {
            leave_stdout();
            return Ok(Self { option, writer: Box::new(io::stdout()), place: "standard output".into(), names: None });
        };
        let place = path.display().to_string();
        let file = File::create(path).map_err(|why| wrong(option, &place, &why))?;
        Ok(Self { option, writer: Box::new(file), place, names: None })
    }

    /// Writes a part.
    ///
    /// # Errors
    /// As [`Output::open`].
    fn write(&mut self, text: &str) -> Result<(), String> {
        let written = self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush());
        written.map_err(|why| wrong(self.option, &self.place, &why))
    }

    /// Writes the whole and gives the file its name.
    ///
    /// # Errors
    /// As [`Output::open`].
    pub fn complete(mut self, text: &str) -> Result<(), String> {
        self.write(text)?;
        let Some((until, path)) = self.names.take() else { return Ok(()) };
        scratch::forget(&until);
        fs::rename(until, path).map_err(|why| wrong(self.option, &self.place, &why))
    }
}

impl Drop for Output {
    /// What did not become complete goes.
    fn drop(&mut self) {
        if let Some((until, _)) = &self.names {
            scratch::forget(until);
            let _ = fs::remove_file(until);
        }
    }
}

fn wrong(option: &str, place: &str, why: &io::Error) -> String {
    format!("--{option}: {place} cannot be written: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_what_it_was() {
        let folder = scratch::Folder::new().unwrap();
        let place = folder.path().join("results");
        fs::create_dir(&place).unwrap();
        let path = place.join("x.json");
        let sink = Sink::File(path.clone());
        let entries = || fs::read_dir(&place).unwrap().count();
        fs::write(&path, "before").unwrap();
        let mut output = Output::open("json", &sink).unwrap();
        output.write("half").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("before", 2));
        drop(output);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("before", 1));
        Output::open("json", &sink).unwrap().complete("whole").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries()), ("whole", 1));

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Output::open("json", &Sink::File(link.clone())).unwrap().complete("through").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "through");
        assert!(link.is_symlink());
        Output::open("csv", &Sink::File("/dev/null".into())).unwrap().complete("away").unwrap();

        let nowhere = Sink::File(folder.path().join("no/x"));
        for error in [Output::open("json", &nowhere).err(), Output::stream("ndjson", &nowhere).err()] {
            let error = error.unwrap();
            assert!(error.contains("/no/x cannot be written: No such file"), "{error}");
        }
    }
}
