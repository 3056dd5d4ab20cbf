"""Files that are not what they seem: read as they should be, or refused in one line.

Points (CSV, NPY, NPZ), folders of images, and Parquet. Nothing is allocated that a header merely
claims, nothing is unpickled, and nothing outside is started.
"""

import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from configs import flow_moons
from scorelab import data
from scorelab.data.image_files import Folder, decode, open_images, read_image
from scorelab.data.images import images
from scorelab.errors import ConfigError
from scorelab.experiment.build import build

POINTS = np.random.default_rng(0).normal(size=(50, 2))
ROWS = "".join(f"{x!r},{y!r}\n" for x, y in POINTS.tolist())
HUGE = 10**14


def npy(array=POINTS, shape=None, version=(1, 0)):
  """The bytes of an NPY file; of another shape than the array's, where one is claimed."""
  file = io.BytesIO()
  header = np.lib.format.header_data_from_array_1_0(array)
  write = {1: np.lib.format.write_array_header_1_0, 2: np.lib.format.write_array_header_2_0}
  write[version[0]](file, header | ({} if shape is None else {"shape": shape}))
  return file.getvalue() + array.tobytes()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    for name, content in members:
      archive.writestr(name, content)
  return file.getvalue()


class Shell:
  """Unpickled it would leave a file behind."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


BAD = {
  "empty csv": ("a.csv", b"", "holds no points"),
  "blank csv": ("a.csv", b"\n \n,\n", "holds no points"),
  "comments": ("a.csv", b"# 1,2\n# 3,4\n", "holds no points"),
  "ragged": ("a.csv", b"1,2\n3,4,5\n", "line 2 has 3 columns, not 2"),
  "nan": (
    "a.csv",
    b"1,2\nNaN,4\n",
    r"1 of 4 numbers are not finite in float32, the first at \[1, 0",
  ),
  "infinite": ("a.csv", b"1,2\n3,-inf\n", "1 of 4 numbers are not finite"),
  "words": ("a.csv", b"one,two\nthree,four\n", "line 2: 'three' is not a number"),
  "semicolons": ("a.csv", b"1;2\n3;4\n", r"line 2: '3;4' is not a number: .* sep=';'\)\.to_csv"),
  "decimal commas": ("a.tsv", b"1,5\t2\n1,5\t3\n", r"line 2: '1,5' is not .* decimal=','\)"),
  "open quote": ("a.csv", b'1,2\n"3,4\n5,6\n', "line 2 has 1 columns, not 2"),
  "zero bytes": ("a.csv", b"1,2\n\x00,4\n", "line 2: '.x00' is not a number|is not a text"),
  "utf-16": ("a.csv", "1,2\n3,4\n".encode("utf-16"), "is not a text file of numbers"),
  "one long field": ("a.csv", b"1" * 200_000, "is not a text file of numbers"),
  "not npy": ("a.npy", b"1,2\n3,4\n", "is not a .npy file of plain arrays"),
  "npy of a zip": ("a.npy", zipped([("a.npy", npy())]), "is not a .npy file of plain arrays"),
  "npy of a pickle": ("a.npy", pickle.dumps([1]), "is not a .npy file of plain arrays"),
  "empty npy": ("a.npy", b"", "is not a .npy file of plain arrays"),
  "half an npy": ("a.npy", npy()[:-8], r"it is of shape \(50, 2\), and holds only 792 bytes"),
  "no rows": ("a.npy", npy(np.zeros((0, 2))), "holds no points"),
  "no columns": ("a.npy", npy(np.zeros((4, 0))), "holds no points"),
  "complex": ("a.npy", npy(POINTS + 1j), "it holds complex128, not real numbers"),
  "dates": ("a.npy", npy(np.zeros((3, 2), "M8[s]")), r"it holds datetime64\[s\]"),
  "records": ("a.npy", npy(np.zeros(3, "f8,f8")), "it holds .*, not real numbers"),
  "objects": ("a.npy", npy(np.array([[None, None]])), "it holds pickled objects"),
  "negative shape": ("a.npy", npy(shape=(-1, 2)), r"it is of shape \(-1, 2\)"),
  "more than there is": ("a.npy", npy(shape=(60, 2)), r"of shape \(60, 2\), and holds only 800 b"),
  "a claim": (
    "a.npy",
    npy(shape=(HUGE, 2)),
    r"it, of shape .*, takes 2.98e.06 GiB, and the machine",
  ),
  "a header of brackets": ("a.npy", npy()[:10] + b"(" * 5000, "is not a .npy file of plain arrays"),
  "not npz": ("a.npz", b"PK\x05\x06", "is not a .npz file of plain arrays"),
  "no members": ("a.npz", zipped([]), r"holds 0 arrays \(\): give target.array"),
  "no array": ("a.npz", zipped([("a.txt", "1,2\n")]), "is not a .npz file of plain arrays"),
  "a claim in a zip": (
    "a.npz",
    zipped([("a.npy", npy(shape=(HUGE, 2)))]),
    r"array 'a', of shape \(100000000000000, 2\), takes 2.98e.06 GiB",
  ),
  "pickled in a zip": (
    "a.npz",
    zipped([("a.npy", npy(np.array([{}])))]),
    "'a' holds pickled objects",
  ),
  "torn zip": ("a.npz", zipped([("a.npy", npy())])[:-40], "is not a .npz file of plain arrays"),
  "damaged zip": (
    "a.npz",
    zipped([("a.npy", npy())], zipfile.ZIP_STORED).replace(POINTS[7].tobytes(), bytes(16)),
    "is not a .npz file of plain arrays",
  ),
  "wrong extension": ("a.csv", npy(), "is not a text file of numbers"),
  "no extension": ("points", ROWS.encode(), "must end in one of .csv, .npy, .npz, .tsv"),
}


@pytest.mark.parametrize(("name", "content", "line"), BAD.values(), ids=BAD)
def test_files_of_points_are_refused_in_one_line(name, content, line, tmp_path):
  (tmp_path / name).write_bytes(content)
  check_refused(tmp_path / name, line)


def check_refused(path, line, **options):
  with pytest.raises(ValueError, match=line) as error:
    data.read_points(str(path), **options)
  assert str(error.value).startswith(f"path = {str(path)!r}: ")
  assert "\n" not in str(error.value)


def test_what_a_pickle_would_do_is_not_done(tmp_path):
  array = np.empty(1, object)
  array[0] = Shell(tmp_path / "made")
  np.save(tmp_path / "a.npy", array, allow_pickle=True)
  np.savez(tmp_path / "a.npz", a=array, allow_pickle=True)
  (tmp_path / "b.npy").write_bytes(pickle.dumps(array[0]))
  for name, options in (("a.npy", {}), ("a.npz", {"array": "a"}), ("b.npy", {})):
    check_refused(tmp_path / name, "pickled objects|plain arrays", **options)
  assert not (tmp_path / "made").exists()


@pytest.mark.e2e
def test_a_bomb_is_refused_by_its_header(tmp_path):
  """256 MiB of zeros in 256 KiB, which claim more than there is memory: hardly unpacked."""
  path = tmp_path / "bomb.npz"
  with (
    zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    archive.open("a.npy", "w", force_zip64=True) as member,
  ):
    member.write(npy(np.zeros(0), shape=(HUGE,)))
    for _ in range(16):
      member.write(bytes(2**24))
  assert path.stat().st_size < 2**19
  tracemalloc.start()
  check_refused(path, "takes 1.49e.06 GiB")
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()


def test_links_and_odd_files(tmp_path):
  good = tmp_path / "good.csv"
  good.write_text(ROWS)
  (tmp_path / "link.csv").symlink_to(good)
  (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
  (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
  (tmp_path / "folder.csv").mkdir()
  os.mkfifo(tmp_path / "pipe.csv")
  np.testing.assert_array_equal(data.read_points(str(tmp_path / "link.csv")), POINTS)
  check_refused(tmp_path / "dangling.csv", "there is no such file")
  check_refused(tmp_path / "loop.csv", "symbolic links|no such file")
  check_refused(tmp_path / "folder.csv", "is not a regular file")
  check_refused(tmp_path / "pipe.csv", "is not a regular file")  # which would wait for ever
  check_refused(tmp_path / ("long" * 100 + ".csv"), "too long")
  check_refused(tmp_path / "a\0.csv", "there is no such file|null")


@pytest.mark.parametrize(
  "name", ["ä ö.csv", "a b.csv", "a\nb.csv", "-x.csv", "%s{0}$HOME.csv", "x.CSV"]
)
def test_odd_names_are_names(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).write_text(ROWS)
  np.testing.assert_array_equal(data.read_points(name), POINTS)
  (tmp_path / name).write_text("1,x\n1,y\n")
  with pytest.raises(ValueError, match="line 2: 'y' is not") as error:
    data.read_points(name)
  assert "\n" not in str(error.value)


def test_an_unreadable_file(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text(ROWS)
  path.chmod(0)
  if os.access(path, os.R_OK):
    pytest.skip("root reads everything")
  check_refused(path, "Permission denied")


def test_unusual_files_that_are_good(tmp_path):
  for name, content in {
    "crlf.csv": ROWS.replace("\n", "\r\n").encode(),
    "quoted.csv": re.sub(r"([^,\n]+)", r'"\1"', ROWS).encode(),
    "spaces.csv": ROWS.replace(",", " , ").encode(),
    "no last line end.csv": ROWS.rstrip().encode(),
    "version 2.npy": npy(version=(2, 0)),
    "fortran.npz": zipped([("a.npy", b"")]),
    "big endian.npy": npy(POINTS.astype(">f8")),
    "stored.npz": zipped([("a.npy", npy())], zipfile.ZIP_STORED),
    "a folder in it.npz": zipped([("deep/a.npy", npy())]),
  }.items():
    path = tmp_path / name
    path.write_bytes(content)
    if name == "fortran.npz":
      np.savez(path, np.asfortranarray(POINTS))
    np.testing.assert_array_equal(data.read_points(str(path)), POINTS)


def test_a_column_that_is_there_twice(tmp_path):
  (tmp_path / "a.csv").write_text("x,x,y\n" + "1,2,3\n" * 5)
  check_refused(tmp_path / "a.csv", "column 'x' is twice in it", columns=("x", "y"))
  check_refused(tmp_path / "a.csv", "column '1' is not in it", columns=(1,))
  check_refused(tmp_path / "a.csv", "holds no points", columns=())


SOUND = {
  "a.csv": ("x,y\n" + ROWS).encode(),
  "a.npy": npy(),
  "a.npz": zipped([("a.npy", npy())]),
  "b.npz": zipped([("a.npy", npy())], zipfile.ZIP_STORED),
}


@st.composite
def damaged(draw, sound):
  """A sound file with bytes changed, put in or taken out; among the first ones more often."""
  content = bytearray(sound)
  for _ in range(draw(st.integers(1, 4))):
    ends = (0, 160, len(content)) if draw(st.booleans()) else (0, len(content), len(content))
    place = draw(st.integers(0, min(ends[1], len(content))))
    taken = draw(st.sampled_from((0, 1, 2, 8, 500)))
    content[place : place + taken] = draw(st.binary(max_size=8))
  return bytes(content)


@pytest.mark.e2e
@pytest.mark.parametrize("name", SOUND)
def test_damaged_files_are_points_or_a_line(name, tmp_path):
  path = tmp_path / name

  @settings(max_examples=150, deadline=None, derandomize=True, database=None)
  @given(damaged(SOUND[name]))
  @example(SOUND[name])
  def check(content):
    path.write_bytes(content)
    try:
      points = data.read_points(str(path))
    except ValueError as error:
      assert "\n" not in str(error) and str(error).startswith("path = ")
    else:
      assert points.ndim >= 2 and points.size and np.isfinite(points).all()

  check()


def test_a_run_refuses_them_in_one_line(tmp_path):
  config = flow_moons.get_config("fast")
  (tmp_path / "a.npz").write_bytes(BAD["a claim in a zip"][1])
  for path in (tmp_path / "a.npz", "x" * 5000 + ".csv", tmp_path):
    config.target.update(name="points", path=str(path))
    with pytest.raises(ConfigError, match=r"^target: path = ") as error:
      build(config)
    assert "\n" not in str(error.value)


# Images.

SIDE = 8
PIXELS = np.random.default_rng(1).integers(0, 256, (12, 10, 3), np.uint8)


def encoded(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def png_of(width, height, rows=b""):
  """A PNG that claims a size."""

  def chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  parts = (("IHDR", header), ("IDAT", zlib.compress(rows)), ("IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name.encode(), content) for name, content in parts)


RGB = Image.fromarray(PIXELS)
GREY = RGB.convert("L")
MODES = {
  "rgb": (encoded(RGB, "PNG"), RGB),
  "grey": (encoded(GREY, "PNG"), GREY),
  "one bit": (encoded(RGB.convert("1"), "PNG"), RGB.convert("1")),
  "palette": (encoded(RGB.convert("P"), "PNG"), RGB.convert("P").convert("RGB")),
  "alpha": (encoded(RGB.convert("RGBA"), "PNG"), RGB),
  "grey alpha": (encoded(GREY.convert("LA"), "PNG"), GREY),
  "16 bit": (encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"), GREY),
  "cmyk": (encoded(RGB.convert("CMYK"), "TIFF"), RGB.convert("CMYK").convert("RGB")),
  "animated": (encoded(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]), RGB),
  "animated webp": (
    encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)], lossless=True),
    RGB,
  ),
  "another name": (encoded(RGB, "BMP"), RGB),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("content", "same"), MODES.values(), ids=MODES)
def test_every_mode_is_the_picture_that_it_shows(content, same, channels):
  """Compared with the same picture in plain RGB or grey."""
  plain = decode(encoded(same.convert("RGB"), "PNG"), SIDE, channels)
  found = decode(content, SIDE, channels)
  assert found.shape == (SIDE, SIDE, channels) and found.dtype == np.uint8
  np.testing.assert_allclose(found.astype(int), plain.astype(int), atol=1)  # rounded once more


NO_IMAGES = {
  "nothing": b"",
  "text": b"no image",
  "half": encoded(RGB, "PNG")[:-60],
  "half a jpeg": encoded(RGB, "JPEG")[:300],
  "a bomb": png_of(50_000, 50_000, bytes(2**20)),
  "no size": png_of(0, 0),
  "a claim": png_of(2**31 - 1, 2**31 - 1),
  "less than it says": png_of(100, 100),
  "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
}


@pytest.mark.parametrize("content", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_counts_as_damaged(content):
  tracemalloc.start()
  assert decode(content, SIDE, 3) is None
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF"])
def test_damaged_images_are_pixels_or_nothing(kind):
  @settings(max_examples=100, deadline=None, derandomize=True, database=None)
  @given(damaged(encoded(RGB, kind)))
  def check(content):
    image = decode(content, SIDE, 3)
    assert image is None or image.shape == (SIDE, SIDE, 3)

  check()


def test_a_folder_of_oddities(tmp_path, capsys):
  """Links, pipes, names, and what is no image: left out by count, the others as they are."""
  good = encoded(RGB, "PNG")
  for name in ("ä ö.png", "a\nb.png", "-x.png", "UPPER.PNG", "sub/deep/a.png", "real.jpg"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(good)
  (tmp_path / "notes.txt").write_text("no image")
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "link.png").symlink_to(tmp_path / "real.jpg")
  (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
  (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
  (tmp_path / "sub" / "up").symlink_to(tmp_path)
  os.mkfifo(tmp_path / "pipe.png")
  names = [os.path.relpath(name, tmp_path) for name in Folder(str(tmp_path)).names]
  kept = {"ä ö.png", "a\nb.png", "-x.png", "UPPER.PNG", "sub/deep/a.png", "real.jpg", "link.png"}
  assert set(names) == kept
  for i, content in enumerate(NO_IMAGES.values()):
    (tmp_path / f"bad{i}.png").write_bytes(content)
  target = images(str(tmp_path), side=SIDE, validation_fraction=0.0, test_fraction=0.0)
  assert len(target.splits["train"]) == len(kept)
  assert target.damaged == len(NO_IMAGES)
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert (
    f": {len(kept) + len(NO_IMAGES)} images; passed over: 1 .txt, 3 that are no files; " in said
  )
  assert "4 (is not an image)" in said and "2 (has too many pixels)" in said


def test_a_file_that_went_away_is_damaged(tmp_path):
  for i in range(4):
    (tmp_path / f"{i}.png").write_bytes(encoded(RGB, "PNG"))
  files = open_images(str(tmp_path))
  (tmp_path / "2.png").unlink()
  assert [read_image(files, i, SIDE, 3) is None for i in range(4)] == [False, False, True, False]


REFUSED_FOLDERS = {
  "nothing in it": ({}, {}, "holds no images"),
  "no image": ({"a.txt": b"x"}, {}, "holds no images"),
  "one image": ({"a.png": encoded(RGB, "PNG")}, {}, "1 images leave none to train on"),
  "only damaged": ({f"{i}.png": b"x" for i in range(9)}, {}, "no image of the train split can be"),
  "no parquet": ({"a.parquet": b"PAR1 and nothing else"}, {}, "Parquet"),
  "an empty parquet": ({"a.parquet": b""}, {}, "parquet|Parquet"),
  "side": ({f"{i}.png": encoded(RGB, "PNG") for i in range(9)}, {"side": 10**6}, "GiB"),
  "channels": ({"a.png": b""}, {"channels": 2}, "channels = 2 must be 1 or 3"),
}


@pytest.mark.parametrize(
  ("files", "options", "line"), REFUSED_FOLDERS.values(), ids=REFUSED_FOLDERS
)
def test_folders_are_refused_in_one_line(files, options, line, tmp_path):
  if "arquet" in line:
    pytest.importorskip("datasets")
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=line) as error:
    images(str(tmp_path), **{"side": SIDE} | options)
  assert "\n" not in str(error.value)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
  """Writes a table of images, which `datasets` keeps beside it."""
  datasets = pytest.importorskip("datasets")
  pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

  def write(columns, name="a.parquet"):
    pq.write_table(pa.table(columns), tmp_path / name)
    return str(tmp_path / name)

  return write


def rows_of(contents):
  return [{"bytes": content, "path": None} for content in contents]


def test_a_table_of_oddities(parquet, capsys):
  good = encoded(RGB, "PNG")
  rows = [*rows_of([good] * 5 + list(NO_IMAGES.values())), {"bytes": None, "path": None}, None]
  rows.append({"bytes": None, "path": "/nowhere.png"})
  target = images(parquet({"image": rows}), side=SIDE, validation_fraction=0.0, test_fraction=0.0)
  assert len(target.splits["train"]) == 5
  assert target.damaged == len(NO_IMAGES) + 3
  assert "3 (cannot be opened)" in capsys.readouterr().err


BAD_TABLES = {
  "no such column": ({"picture": rows_of([b"x"])}, "column = 'image' is not in .*known: picture"),
  "numbers": ({"image": [1, 2, 3]}, "path = "),
  "no rows": ({"image": np.zeros(0)}, "path = "),
}


@pytest.mark.parametrize(("columns", "line"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_tables_are_refused_in_one_line(columns, line, parquet):
  with pytest.raises(ValueError, match=line) as error:
    images(parquet(columns), side=SIDE)
  assert "\n" not in str(error.value)
