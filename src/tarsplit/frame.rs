//! Pure: no I/O. The framing of a tar as a state machine: it says what it wants next and is given it.
//!
//! The driver asks [`Framer::want`], brings that many bytes from wherever they are, and hands them to
//! [`Framer::give`] ([`Framer::skip`] for bodies, [`Framer::end`] where the input ends first). So the same rules
//! hold for a tar that arrives and for one that is only remembered by its tar-split.

use super::error::shown;
use super::header::{BLOCK, Header};
use super::number::c_string;
use super::pax::Pax;
use super::{Entry, EntryKind, TarError};

/// Bytes that the extension headers of one member may have together (PAX and GNU long names).
pub const EXTENSIONS_MAX: u64 = 1 << 20;

/// Extension headers that one member may have, so that empty ones cannot fill the memory.
const EXTENSION_HEADERS_MAX: u32 = 1024;

/// What comes next in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A header block, whole.
    Header,
    /// The body of an extension header, whole.
    Extension(usize),
    /// Bytes of a body, in pieces of any length.
    Body(u64),
    /// Padding up to the next block, whole.
    Padding(usize),
    /// Nothing: the archive has ended, whatever follows is not tar.
    Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header { after_zeros: bool },
    Extension { kind: u8, len: usize },
    Body,
    Padding,
    Tail,
}

/// The machine, with what it keeps of the extension headers read for the next member.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    /// Bytes of the tar taken so far.
    offset: u64,
    /// Where the latest header block began.
    header_at: u64,
    body: u64,
    padding: usize,
    pax: Pax,
    long_name: Vec<u8>,
    long_link: Vec<u8>,
    /// The global header whose records are being read.
    global: Option<Header>,
    extension_bytes: u64,
    extension_headers: u32,
}

fn padding(len: u64) -> usize {
    (len.wrapping_neg() & (BLOCK as u64 - 1)) as usize
}

/// Types that have no body whatever their size says.
fn is_header_only(kind: u8) -> bool {
    (b'1'..=b'6').contains(&kind)
}

impl Framer {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header { after_zeros: false },
            offset: 0,
            header_at: 0,
            body: 0,
            padding: 0,
            pax: Pax::default(),
            long_name: Vec::new(),
            long_link: Vec::new(),
            global: None,
            extension_bytes: 0,
            extension_headers: 0,
        }
    }

    /// Bytes of the tar taken so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// What to bring next; never a length of zero.
    pub(super) fn want(&self) -> Want {
        match self.state {
            State::Header { .. } => Want::Header,
            State::Extension { len, .. } => Want::Extension(len),
            State::Body => Want::Body(self.body),
            State::Padding => Want::Padding(self.padding),
            State::Tail => Want::Tail,
        }
    }

    /// Takes what [`Want::Header`], [`Want::Extension`] or [`Want::Padding`] asked for, and returns the member it completes.
    ///
    /// After an error the machine must not be used again.
    pub(super) fn give(&mut self, bytes: &[u8]) -> Result<Option<Entry>, TarError> {
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        match self.state {
            State::Header { after_zeros } => match bytes.try_into() {
                Ok(block) => self.header(block, after_zeros),
                Err(_) => Err(TarError::Failed),
            },
            State::Extension { kind, .. } => self.extension(kind, bytes),
            State::Padding => {
                self.state = State::Header { after_zeros: false };
                Ok(None)
            }
            State::Body | State::Tail => Ok(None),
        }
    }

    /// Passes over `len` bytes of the body that [`Want::Body`] asked for.
    pub(super) fn skip(&mut self, len: u64) {
        self.offset = self.offset.saturating_add(len);
        self.body = self.body.saturating_sub(len);
        if self.body == 0 && self.state == State::Body {
            self.after_body();
        }
    }

    /// The input has ended after `got` bytes of what was wanted; where Go takes that for the archive's end, so be it.
    pub(super) fn end(&mut self, got: usize) -> Result<(), TarError> {
        let offset = self.offset.saturating_add(got as u64);
        let cut = |what, wanted: u64| Err(TarError::Truncated { offset, what, missing: wanted.saturating_sub(got as u64) });
        match self.want() {
            Want::Header if got > 0 => cut("a header", BLOCK as u64),
            Want::Extension(len) => cut("an extension header", len as u64),
            Want::Body(len) => cut("a body", len),
            Want::Header | Want::Padding(_) | Want::Tail => {
                self.offset = offset;
                self.state = State::Tail;
                Ok(())
            }
        }
    }

    fn after_body(&mut self) {
        self.state = if self.padding > 0 { State::Padding } else { State::Header { after_zeros: false } };
    }

    fn header(&mut self, block: &[u8; BLOCK], after_zeros: bool) -> Result<Option<Entry>, TarError> {
        self.header_at = self.offset.saturating_sub(BLOCK as u64);
        if block.iter().all(|&b| b == 0) {
            self.state = if after_zeros { State::Tail } else { State::Header { after_zeros: true } };
            return Ok(None);
        }
        if after_zeros {
            return Err(TarError::LoneZeroBlock { offset: self.header_at });
        }
        let header = Header::parse(block, self.header_at)?;
        // Checked before PAX may replace it, as in Go.
        self.expect_body(header.kind, header.size)?;
        match header.kind {
            kind @ (b'x' | b'g' | b'L' | b'K') => {
                let len = self.allow_extension()?;
                self.global = (kind == b'g').then_some(header);
                self.state = State::Extension { kind, len };
                if len == 0 { self.extension(kind, &[]) } else { Ok(None) }
            }
            _ => self.member(header).map(Some),
        }
    }

    /// Sets body and padding for a member of this type and size.
    fn expect_body(&mut self, kind: u8, size: i64) -> Result<(), TarError> {
        let len = if is_header_only(kind) { 0 } else { size };
        self.body = u64::try_from(len).map_err(|_| TarError::NegativeSize { offset: self.header_at, size })?;
        self.padding = padding(self.body);
        Ok(())
    }

    /// Counts an extension header against the limits before anything is read of it.
    fn allow_extension(&mut self) -> Result<usize, TarError> {
        self.extension_bytes = self.extension_bytes.saturating_add(self.body);
        self.extension_headers = self.extension_headers.saturating_add(1);
        if self.extension_bytes > EXTENSIONS_MAX || self.extension_headers > EXTENSION_HEADERS_MAX {
            return Err(TarError::ExtensionsTooLong { offset: self.header_at, limit: EXTENSIONS_MAX });
        }
        let len = usize::try_from(self.body).unwrap_or(usize::MAX);
        self.body = 0;
        Ok(len)
    }

    fn extension(&mut self, kind: u8, bytes: &[u8]) -> Result<Option<Entry>, TarError> {
        self.after_body();
        match kind {
            b'L' => self.long_name = c_string(bytes).to_vec(),
            b'K' => self.long_link = c_string(bytes).to_vec(),
            _ => {
                // A second PAX header replaces the first, it does not add to it.
                self.pax = Pax::parse(bytes).map_err(|what| self.bad_pax(what))?;
            }
        }
        match self.global.take() {
            Some(header) => self.global_header(header).map(Some),
            None => Ok(None),
        }
    }

    fn bad_pax(&self, what: &'static str) -> TarError {
        TarError::Pax { offset: self.header_at, what }
    }

    /// A global header is a member of its own to Go; extension headers before it are lost.
    fn global_header(&mut self, mut header: Header) -> Result<Entry, TarError> {
        let pax = self.take_pax();
        pax.apply(&mut header).map_err(|what| self.bad_pax(what))?;
        (self.long_name, self.long_link) = (Vec::new(), Vec::new());
        Ok(Entry {
            name: header.name,
            kind: EntryKind::GlobalHeader,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            device: (0, 0),
            mtime: header.mtime,
            atime: None,
            xattrs: Vec::new(),
            duplicate: false,
        })
    }

    fn take_pax(&mut self) -> Pax {
        (self.extension_bytes, self.extension_headers) = (0, 0);
        std::mem::take(&mut self.pax)
    }

    fn member(&mut self, mut header: Header) -> Result<Entry, TarError> {
        let pax = self.take_pax();
        pax.apply(&mut header).map_err(|what| self.bad_pax(what))?;
        let (name, link) = (std::mem::take(&mut self.long_name), std::mem::take(&mut self.long_link));
        if !name.is_empty() {
            header.name = name;
        }
        if !link.is_empty() {
            header.link = link;
        }
        if header.kind == 0 {
            header.kind = if header.name.ends_with(b"/") { b'5' } else { b'0' };
        }
        let kind = match header.kind {
            b'0' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            kind => return Err(TarError::Unhandled { name: shown(&header.name), kind }),
        };
        if pax.is_sparse() {
            return Err(TarError::Sparse { name: shown(&header.name) });
        }
        self.expect_body(header.kind, header.size)?;
        self.state = State::Body;
        if self.body == 0 {
            self.after_body();
        }
        let fit = |field, value: i64, max: u32| match u32::try_from(value) {
            Ok(fits) if fits <= max => Ok(fits),
            _ => Err(TarError::OutOfRange { name: shown(&header.name), field, value }),
        };
        let is_device = matches!(kind, EntryKind::Char | EntryKind::Block);
        let (major, minor) = if is_device { header.device } else { (0, 0) };
        Ok(Entry {
            kind,
            mode: (header.mode & 0o7777) as u32,
            // chown(2) takes the highest id for "leave it": Go's layer would then belong to root.
            uid: fit("uid", header.uid, u32::MAX - 1)?,
            gid: fit("gid", header.gid, u32::MAX - 1)?,
            size: self.body,
            device: (fit("device major", major, u32::MAX)?, fit("device minor", minor, u32::MAX)?),
            mtime: header.mtime,
            atime: header.atime,
            xattrs: pax.into_xattrs(),
            duplicate: false,
            link: if matches!(kind, EntryKind::HardLink | EntryKind::Symlink) { header.link } else { Vec::new() },
            name: header.name,
        })
    }
}
