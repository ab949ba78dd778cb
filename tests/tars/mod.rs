//! Crafted tars, each with what becomes of it here and in Go.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

/// What Go's programs do with a tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// As we do.
    Same,
    /// Go refuses it, we do not, and why.
    Refuses(&'static str),
    /// Go accepts it, we do not, and why.
    Accepts(&'static str),
    /// Go accepts it, and its tar-split is not exact, and why.
    Inexact(&'static str),
}

/// One crafted tar.
pub struct Case {
    pub name: String,
    pub tar: Vec<u8>,
    /// `None`: accepted; else a part of the error's text.
    pub refused: Option<&'static str>,
    pub go: Go,
}

/// A header to be; `build` makes the block and the body.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub body: Vec<u8>,
    /// Fields written over the block before the checksum: offset and bytes.
    pub fields: Vec<(usize, Vec<u8>)>,
    pub magic: &'static [u8; 8],
}

pub const USTAR: &[u8; 8] = b"ustar\x0000";
pub const GNU: &[u8; 8] = b"ustar  \0";
pub const V7: &[u8; 8] = b"\0\0\0\0\0\0\0\0";

pub fn member(kind: u8, name: &[u8], body: &[u8]) -> Member {
    Member { name: name.to_vec(), kind, link: Vec::new(), body: body.to_vec(), fields: Vec::new(), magic: USTAR }
}

pub fn file(name: &str, body: &[u8]) -> Vec<u8> {
    member(b'0', name.as_bytes(), body).build()
}

pub fn dir(name: &str) -> Vec<u8> {
    member(b'5', name.as_bytes(), b"").build()
}

impl Member {
    pub fn link(mut self, link: &[u8]) -> Self {
        self.link = link.to_vec();
        self
    }

    pub fn magic(mut self, magic: &'static [u8; 8]) -> Self {
        self.magic = magic;
        self
    }

    pub fn field(mut self, at: usize, bytes: &[u8]) -> Self {
        self.fields.push((at, bytes.to_vec()));
        self
    }

    pub fn header(&self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", self.body.len()).as_bytes());
        put(136, b"14000000000\0");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, self.magic);
        for (at, bytes) in &self.fields {
            put(*at, bytes);
        }
        seal(&mut block);
        block
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = self.header().to_vec();
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

/// Writes the checksum into a header block.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A PAX record with its length in front.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A PAX header before the next member.
pub fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    member(b'x', b"PaxHeaders.0/x", &body).build()
}

pub fn global(name: &str, records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    member(b'g', name.as_bytes(), &body).build()
}

pub fn gnu_long(kind: u8, text: &[u8]) -> Vec<u8> {
    member(kind, b"././@LongLink", &[text, b"\0"].concat()).magic(GNU).build()
}

/// The parts and the two zero blocks that end an archive.
pub fn tar(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = parts.concat();
    out.extend_from_slice(&[0; 1024]);
    out
}

/// A small tar with most of what tars can have, without its end.
pub fn small() -> Vec<u8> {
    [
        dir("d/"),
        file("d/a", b"hello\n"),
        pax(&[(b"mtime", b"1.5"), (b"SCHILY.xattr.user.k", b"v")]),
        file("d/b", &[7; 600]),
        gnu_long(b'L', &[b'n'; 120]),
        member(b'0', b"short", b"x").magic(GNU).build(),
        member(b'2', b"s", b"").link(b"d/a").build(),
    ]
    .concat()
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    good(&mut cases);
    framing(&mut cases);
    extensions(&mut cases);
    deviations(&mut cases);
    refused(&mut cases);
    cases
}

fn add(cases: &mut Vec<Case>, name: &str, tar: Vec<u8>) {
    cases.push(Case { name: name.to_owned(), tar, refused: None, go: Go::Same });
}

fn refuse(cases: &mut Vec<Case>, name: &str, text: &'static str, tar: Vec<u8>) {
    cases.push(Case { name: name.to_owned(), tar, refused: Some(text), go: Go::Same });
}

fn base256(len: usize, value: i64) -> Vec<u8> {
    let wide = i128::from(value).to_be_bytes();
    let mut field = wide[16 - len..].to_vec();
    field[0] = (field[0] & 0x7f) | 0x80;
    field
}

fn good(cases: &mut Vec<Case>) {
    add(cases, "every type", {
        let device = |kind, name: &[u8]| member(kind, name, b"").field(329, b"0000001\0").field(337, b"0000003\0").build();
        tar(&[
            dir("d/"),
            file("d/f", b"body"),
            member(b'1', b"hard", b"").link(b"d/f").build(),
            member(b'2', b"sym", b"").link(b"d/f").build(),
            device(b'3', b"null"),
            device(b'4', b"loop"),
            member(b'6', b"fifo", b"").build(),
            file("empty", b""),
        ])
    });
    add(cases, "old v7 with NUL type", {
        let old = |name: &[u8], body: &[u8]| member(0, name, body).magic(V7).build();
        tar(&[old(b"olddir/", b""), old(b"olddir/f", b"seven")])
    });
    add(cases, "NUL type with slash and size is a directory without body", tar(&[member(0, b"nd/", b"").build(), file("after", b"1")]));
    add(cases, "ustar prefix", tar(&[dir("p/"), member(b'0', b"f", b"1").field(345, b"p/q").build()]));
    add(cases, "star format", {
        let star = member(b'0', b"f", b"1").field(345, b"pre").field(476, b"00000000007\0").field(508, b"tar\0");
        tar(&[star.build()])
    });
    add(cases, "gnu times", tar(&[member(b'0', b"f", b"1").magic(GNU).field(345, b"14000000001\0").build()]));
    add(cases, "gnu header with an old Go prefix", tar(&[member(b'0', b"f", b"1").magic(GNU).field(345, b"some/prefix").build()]));
    add(cases, "PAX long names", {
        let (long, target) = ([b'p'; 150], [b't'; 180]);
        let path = [&long[..], b"/", &long].concat();
        tar(&[
            pax(&[(b"path", &path)]),
            file("short", b"long"),
            pax(&[(b"path", b"lnk"), (b"linkpath", &target)]),
            member(b'2', b"l", b"").link(b"x").build(),
        ])
    });
    add(cases, "GNU long names", {
        let link = member(b'2', b"ll", b"").link(b"short").magic(GNU).build();
        tar(&[
            gnu_long(b'L', &[b'n'; 200]),
            member(b'0', b"n", b"1").magic(GNU).build(),
            gnu_long(b'K', &[b'k'; 200]),
            gnu_long(b'L', &[b'm'; 200]),
            link,
        ])
    });
    add(cases, "GNU long name wins over PAX path", tar(&[gnu_long(b'L', b"gnu"), pax(&[(b"path", b"pax")]), file("plain", b"1")]));
    add(cases, "second PAX header replaces the first", {
        tar(&[pax(&[(b"path", b"first"), (b"uid", b"5")]), pax(&[(b"gid", b"7")]), file("plain", b"1")])
    });
    add(cases, "empty PAX values count as absent", tar(&[pax(&[(b"path", b""), (b"size", b""), (b"uid", b"")]), file("plain", b"1")]));
    add(cases, "PAX size over the header's", {
        let mut big = member(b'0', b"f", b"twelve bytes").field(124, b"00000000000\0").build();
        big.splice(0..0, pax(&[(b"size", b"12")]));
        tar(&[big, file("next", b"n")])
    });
    add(cases, "names that are not UTF-8", tar(&[member(b'0', b"n\xff\xfe", b"1").build(), member(b'5', b"d\x80/", b"").build()]));
    add(cases, "names that JSON and HTML escape", tar(&[file("a<b>&\"\\c", b"1"), file("tab\tnl\n\u{1}\u{7f}\u{2028}é", b"2")]));
    add(cases, "negative and sub-second times", {
        tar(&[
            pax(&[(b"mtime", b"-1.5"), (b"atime", b"0.000000001")]),
            file("neg", b"1"),
            pax(&[(b"mtime", b"1350244992.123456789")]),
            file("sub", b"2"),
            member(b'0', b"neg256", b"3").magic(GNU).field(136, &base256(12, -5)).build(),
        ])
    });
    add(cases, "base-256 numbers", {
        let numbers = member(b'0', b"f", b"0123456789").magic(GNU).field(124, &base256(12, 10)).field(108, &base256(8, 70000));
        tar(&[numbers.build()])
    });
    add(cases, "octal without terminators and with blanks", {
        tar(&[member(b'0', b"f", b"12345678").field(124, b"         10 ").field(100, b"   644 \0").build()])
    });
    add(cases, "signed checksum", {
        let mut block = member(b'0', b"sig\xff\xfe", b"").header();
        block[148..156].fill(b' ');
        let sum: i64 = block.iter().map(|&b| i64::from(b as i8)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar(&[block.to_vec()])
    });
    add(cases, "whiteouts", tar(&[dir("d/"), file("d/.wh.gone", b""), file("d/.wh..wh..opq", b"")]));
    add(cases, "body larger than a megabyte", {
        let body: Vec<u8> = (0..2_500_001u32).map(|n| (n % 251) as u8).collect();
        tar(&[file("big", &body), file("next", b"1")])
    });
    add(cases, "global header", tar(&[global("pax_global_header", &[(b"comment", b"c0ffee")]), file("f", b"1")]));
    add(cases, "global header takes a PAX path and drops what came before", {
        tar(&[pax(&[(b"path", b"lost")]), global("g", &[(b"path", b"named")]), file("f", b"1")])
    });
    add(cases, "size on a symlink of 512", {
        tar(&[member(b'2', b"s", b"").link(b"t").field(124, b"00000001000\0").build(), file("f", b"1")])
    });
    add(cases, "negative size on a directory", {
        tar(&[member(b'5', b"d/", b"").magic(GNU).field(124, &base256(12, -7)).build(), file("f", b"1")])
    });
}

fn framing(cases: &mut Vec<Case>) {
    add(cases, "nothing", Vec::new());
    add(cases, "two zero blocks", vec![0; 1024]);
    add(cases, "one zero block", vec![0; 512]);
    add(cases, "no end", file("f", b"1"));
    add(cases, "one zero block at the end", [file("f", b"1"), vec![0; 512]].concat());
    add(cases, "zeros after the end", [tar(&[file("f", b"1")]), vec![0; 9000]].concat());
    add(cases, "garbage after the end", [tar(&[file("f", b"1")]), b"garbage".repeat(1000)].concat());
    add(cases, "more than a segment after the end", [tar(&[file("f", b"1")]), b"garbage!".repeat(300_000)].concat());
    add(cases, "PAX header and nothing after it", [file("f", b"1"), pax(&[(b"path", b"p")])].concat());
    add(cases, "padding that is not zeros", {
        let mut tar = tar(&[file("f", b"1"), file("g", b"2")]);
        tar[700..1024].fill(b'#');
        tar
    });
    refuse(cases, "data after a lone zero block", "lone zero block", [file("f", b"1"), vec![0; 512], tar(&[file("g", b"2")])].concat());
    refuse(cases, "part of a block after a lone zero block", "inside a header", [file("f", b"1"), vec![0; 700]].concat());
    refuse(cases, "garbage instead of a tar", "wrong checksum", b"garbage?".repeat(100));
    refuse(cases, "bad checksum", "wrong checksum", {
        let mut tar = tar(&[file("f", b"1"), file("g", b"2")]);
        tar[1024] ^= 1;
        tar
    });
    refuse(cases, "body of a link taken for a header", "wrong checksum", {
        tar(&[member(b'1', b"h", b"not a header").link(b"f").build()])
    });
    let whole = small();
    for cut in (0..whole.len()).step_by(512) {
        let inside = Cut::of(&whole, cut);
        cases.push(Case { name: format!("small tar cut at {cut}"), tar: whole[..cut].to_vec(), refused: inside.refused(), go: Go::Same });
    }
}

/// Where a cut of the small tar falls, worked out from its headers alone.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    Boundary,
    Header,
    Body,
    Padding,
}

impl Cut {
    pub fn of(tar: &[u8], cut: usize) -> Self {
        let mut at = 0;
        while at < cut {
            let size = std::str::from_utf8(&tar[at + 124..at + 135]).unwrap();
            let body = usize::from_str_radix(size, 8).unwrap();
            let padded = body.next_multiple_of(512);
            match cut - at {
                1..512 => return Self::Header,
                len if len < 512 + body => return Self::Body,
                len if len < 512 + padded => return Self::Padding,
                _ => at += 512 + padded,
            }
        }
        Self::Boundary
    }

    pub fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Boundary | Self::Padding => None,
            Self::Header | Self::Body => Some("inside a"),
        }
    }
}

fn extensions(cases: &mut Vec<Case>) {
    let comment = |len: usize| pax(&[(b"comment", &vec![b'c'; len])]);
    add(cases, "PAX of nearly a megabyte", tar(&[comment((1 << 20) - 20), file("f", b"1")]));
    refuse(cases, "PAX of 10 MB", "exceed the limit", tar(&[comment(10_000_000), file("f", b"1")]));
    refuse(cases, "PAX that claims 8 EB", "exceed the limit", {
        let block = member(b'x', b"x", b"").field(124, &base256(12, i64::MAX)).header();
        block.to_vec()
    });
    refuse(cases, "long name of 10 MB", "exceed the limit", tar(&[gnu_long(b'L', &vec![b'n'; 10_000_000]), file("f", b"1")]));
    for (name, body) in [
        ("PAX record without newline", &b"6 k=12"[..]),
        ("PAX record longer than the header", b"50 k=1\n"),
        ("PAX record with NUL in a path", b"10 path=\0\n"),
        ("PAX uid that is no number", b"9 uid=x1\n"),
        ("PAX time that is no time", b"11 mtime=x\n"),
        ("PAX ctime that is no time", b"11 ctime=x\n"),
    ] {
        refuse(cases, name, "extended header", tar(&[member(b'x', b"x", body).build(), file("f", b"1")]));
    }
    refuse(cases, "negative PAX size", "negative size", tar(&[pax(&[(b"size", b"-1")]), file("f", b"1")]));
    refuse(cases, "negative size", "negative size", tar(&[member(b'0', b"f", b"").magic(GNU).field(124, &base256(12, -1)).build()]));
    refuse(cases, "size that is no number", "size is not a number", tar(&[member(b'0', b"f", b"").field(124, b"12x").build()]));
    refuse(cases, "mode that is no number", "mode is not a number", tar(&[member(b'0', b"f", b"").field(100, b"9").build()]));
    add(cases, "device number that is no number in a v7 header", tar(&[member(b'0', b"f", b"").magic(V7).field(329, b"xyz").build()]));
    refuse(cases, "device number that is no number", "device major", tar(&[member(b'0', b"f", b"").field(329, b"xyz").build()]));
}

fn deviations(cases: &mut Vec<Case>) {
    let twice = "duplicates of file paths not supported";
    let mut accept = |name: &str, parts: &[Vec<u8>]| {
        cases.push(Case { name: name.to_owned(), tar: tar(parts), refused: None, go: Go::Refuses(twice) });
    };
    accept("a file twice", &[file("f", b"one"), file("g", b"other"), file("f", b"three")]);
    accept("a file by two spellings", &[file("f", b"one"), file("./f", b"two")]);
    accept("an empty file, then one with a body", &[file("f", b""), file("f", b"two")]);
    accept("a file with a body, then an empty one", &[file("f", b"one"), file("f", b"")]);
    accept("a directory twice", &[dir("d/"), file("d/f", b"1"), dir("d")]);
    accept("two global headers of one name", &[global("g", &[(b"comment", b"1")]), global("g", &[(b"comment", b"2")])]);
    cases.push(Case {
        name: "cut inside padding".to_owned(),
        tar: [file("f", b"1")].concat()[..700].to_vec(),
        refused: None,
        go: Go::Inexact("Go forgets padding that is cut short"),
    });
}

fn refused(cases: &mut Vec<Case>) {
    for kind in [b'7', b'S', b'V', b'M', b'D', b'A', 0xff] {
        let odd = member(kind, b"odd", b"").magic(GNU).field(483, b"00000000000\0").build();
        refuse(cases, &format!("type {:?}", char::from(kind)), "unhandled tar header type", tar(&[odd, file("f", b"1")]));
    }
    let mut ours = |name: &str, text, why, parts: &[Vec<u8>]| {
        cases.push(Case { name: name.to_owned(), tar: tar(parts), refused: Some(text), go: Go::Accepts(why) });
    };
    let sparse = |records: &[(&[u8], &[u8])], body: &[u8]| [pax(records), file("s", body)].concat();
    let inexact = "Go extracts it, and cannot export it";
    ours(
        "PAX sparse 1.0",
        "sparse files are not supported",
        inexact,
        &[sparse(
            &[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"8")],
            &{
                let mut body = b"1\n4\n4\n".to_vec();
                body.resize(512, 0);
                body.extend_from_slice(b"data");
                body
            },
        )],
    );
    ours(
        "PAX sparse 0.1",
        "sparse files are not supported",
        inexact,
        &[sparse(&[(b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"4,4"), (b"GNU.sparse.size", b"8")], b"data")],
    );
    let wraps = "Go hands it to the kernel, which takes it modulo 2^32";
    ours("uid beyond 32 bits", "uid 4294967296 is out of range", wraps, &[pax(&[(b"uid", b"4294967296")]), file("f", b"1")]);
    ours("gid that means none", "gid 4294967295 is out of range", wraps, &[pax(&[(b"gid", b"4294967295")]), file("f", b"1")]);
    ours("many empty extension headers", "exceed the limit", "Go has no limit for their number", &[pax(&[]).repeat(1025), file("f", b"1")]);
}
