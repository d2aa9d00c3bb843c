"""Images from real files made by Pillow, and from files no encoder would make."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from certserve import images
from certserve.images import EncodedImage, Geometry, ImageError, ImageFit, Limits, RawImage

LIMITS = Limits()
RGB = Geometry(3, 20, 30, "rgb")
GREY = Geometry(1, 20, 30, "grey")
LUMA = np.array([0.299, 0.587, 0.114])
ORIENTATION = 0x0112
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(height: int = 20, width: int = 30) -> npt.NDArray[np.uint8]:
    """(height, width, 3): every pixel and channel different from its neighbours, nothing symmetric."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 7 + columns * 3, rows * 2 + columns * 5 + 40, rows * 11 + columns + 90]
    return np.stack(planes, axis=2).astype(np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format=format, **options)
    return target.getvalue()


def decode(data: bytes, geometry: Geometry = RGB, fit: ImageFit = ImageFit.EXACT) -> npt.NDArray[Any]:
    """The decoded array, once it has shown what every decoded array must show."""
    image = EncodedImage(data)
    assert images.check(image, geometry, fit, LIMITS) == []
    pixels = images.decode(image, geometry, fit, LIMITS)
    assert pixels.dtype == np.uint8
    assert pixels.shape == geometry.shape
    assert pixels.flags.c_contiguous
    assert pixels.flags.owndata
    return pixels


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, extra: bytes = b"", rows: bytes = b"") -> bytes:
    """A PNG made by hand; `colour` is the number that the format gives it (0 grey, 2 RGB, 6 RGBA)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return SIGNATURE + body


class TestDecode:
    def test_png_is_exact_in_every_channel(self) -> None:
        assert np.array_equal(decode(encoded(Image.fromarray(picture()))), picture().transpose(2, 0, 1))

    def test_webp_without_loss_is_exact(self) -> None:
        data = encoded(Image.fromarray(picture()), "WEBP", lossless=True)
        assert np.array_equal(decode(data), picture().transpose(2, 0, 1))

    @pytest.mark.parametrize("format", ["JPEG", "WEBP"])
    def test_lossy_is_close(self, format: str) -> None:
        smooth = np.stack([np.tile(np.arange(30) * 8, (20, 1)).astype(np.uint8)] * 3, axis=2)
        pixels = decode(encoded(Image.fromarray(smooth), format, quality=95))
        assert np.abs(pixels.astype(int) - smooth.transpose(2, 0, 1)).max() <= 8

    def test_bgr_reverses_the_channels(self) -> None:
        data = encoded(Image.fromarray(picture()))
        assert np.array_equal(decode(data, Geometry(3, 20, 30, "bgr")), decode(data)[::-1])

    def test_grey_of_colour_is_luma(self) -> None:
        pixels = decode(encoded(Image.fromarray(picture())), GREY)
        assert np.abs(pixels[0] - picture() @ LUMA).max() <= 1

    @pytest.mark.parametrize("geometry", [GREY, RGB])
    @pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
    def test_grey_values_stay_what_they_are(self, geometry: Geometry, mode: str) -> None:
        grey = Image.fromarray(picture()[:, :, 0]).convert(mode)
        expected = np.asarray(grey.convert("L"))
        pixels = decode(encoded(grey), geometry)
        assert (pixels == expected).all()

    def test_palette(self) -> None:
        image = Image.fromarray(picture()).quantize(64)
        assert np.array_equal(decode(encoded(image)), np.asarray(image.convert("RGB")).transpose(2, 0, 1))

    def test_colours_of_any_mode_have_the_same_grey(self) -> None:
        image = Image.fromarray(picture()).quantize(64)
        expected = np.asarray(image.convert("RGB").convert("L"))
        assert np.array_equal(decode(encoded(image), GREY)[0], expected)
        ink = encoded(image.convert("RGB").convert("CMYK"), "JPEG", quality=100)
        assert np.abs(decode(ink, GREY)[0].astype(int) - decode(ink).transpose(1, 2, 0) @ LUMA).max() <= 1

    def test_pixels_in_thousands_of_pieces(self) -> None:
        """What bounds the header does not bound the pixels."""
        body = zlib.compress(b"\0" * 20 * 91, 0)
        whole = png(30, 20, rows=b"")
        pieces = b"".join(chunk(b"IDAT", body[place : place + 1]) for place in range(len(body)))
        start = whole.index(b"IDAT") - 4
        assert len(body) > 1500
        assert decode(whole[:start] + pieces + whole[-12:]).max() == 0

    def test_transparent_palette_entry_shows_white(self) -> None:
        image = Image.new("P", (30, 20), 0)
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.paste(1, (0, 0, 15, 20))
        pixels = decode(encoded(image, transparency=0))
        assert (pixels[:, :, 15:] == 255).all()
        assert (pixels[:, :, :15].reshape(3, -1).T == [200, 100, 50]).all()

    def test_transparent_colour_key_shows_white(self) -> None:
        image = Image.new("RGB", (30, 20), (1, 2, 3))
        image.paste((4, 5, 6), (0, 0, 15, 20))
        pixels = decode(encoded(image, transparency=(1, 2, 3)))
        assert (pixels[:, :, 15:] == 255).all()
        assert (pixels[:, :, :15].reshape(3, -1).T == [4, 5, 6]).all()

    @pytest.mark.parametrize("format", ["PNG", "WEBP"])
    def test_alpha_is_composited_on_white(self, format: str) -> None:
        alpha = np.zeros((20, 30), np.uint8)
        alpha[:, 10:20], alpha[:, 20:] = 128, 255
        image = Image.fromarray(np.dstack([picture(), alpha]))
        options = {"lossless": True, "exact": True} if format == "WEBP" else {}
        pixels = decode(encoded(image, format, **options))
        colours = picture().transpose(2, 0, 1)
        half = colours[:, :, 10:20] * (128 / 255) + 255 * (127 / 255)
        assert (pixels[:, :, :10] == 255).all()
        assert np.abs(pixels[:, :, 10:20] - half).max() <= 1
        assert np.array_equal(pixels[:, :, 20:], colours[:, :, 20:])

    def test_cmyk_jpeg(self) -> None:
        image = Image.new("RGB", (30, 20), (200, 40, 90)).convert("CMYK")
        pixels = decode(encoded(image, "JPEG", quality=100))
        assert np.abs(pixels.reshape(3, -1).T.astype(int) - [200, 40, 90]).max() <= 4
        assert decode(encoded(image, "JPEG"), GREY).shape == (1, 20, 30)

    def test_jpeg_followed_by_another_picture_is_its_first(self) -> None:
        first, second = Image.fromarray(picture()), Image.new("RGB", (30, 20))
        data = encoded(first, "MPO", save_all=True, append_images=[second])
        assert images.read_header(data).format == "JPEG"
        assert np.array_equal(decode(data), decode(encoded(first, "JPEG")))

    def test_grey_of_two_bits(self) -> None:
        data = png(4, 1, depth=2, colour=0, rows=bytes([0, 0b00011011]))
        assert decode(data, Geometry(1, 1, 4, "grey")).tolist() == [[[0, 85, 170, 255]]]


class TestOrientation:
    # What the stored rows and columns are of the upright image (EXIF 2.32, tag 274).
    STORED: ClassVar[dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }

    # An orientation that is the text "6".
    TEXT: ClassVar[bytes] = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\x006\0\0\0\0\0\0\0"

    @staticmethod
    def oriented(image: Image.Image, value: Any, format: str = "PNG", **options: Any) -> bytes:
        exif = Image.Exif()
        exif[ORIENTATION] = value
        return encoded(image, format, exif=exif.tobytes(), **options)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
    def test_the_upright_image_comes_out(self, orientation: int, format: str, options: dict[str, Any]) -> None:
        stored = Image.fromarray(np.ascontiguousarray(self.STORED[orientation](picture())))
        data = self.oriented(stored, orientation, format, **options)
        header = images.read_header(data)
        assert (header.width, header.height) == stored.size
        assert header.size == (30, 20)
        assert np.array_equal(decode(data), picture().transpose(2, 0, 1))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_jpeg(self, orientation: int) -> None:
        corner = np.full((32, 48, 3), 20, np.uint8)
        corner[:16, :16] = 230
        corner[16:, :16] = 120
        stored = Image.fromarray(np.ascontiguousarray(self.STORED[orientation](corner)))
        pixels = decode(self.oriented(stored, orientation, "JPEG", quality=95), Geometry(3, 32, 48, "rgb"))
        assert np.abs(pixels.astype(int) - corner.transpose(2, 0, 1)).max() <= 30

    @pytest.mark.parametrize("value", [0, 9, 65535])
    def test_nonsense_turns_nothing(self, value: int) -> None:
        data = self.oriented(Image.fromarray(picture()), value)
        assert images.read_header(data).orientation == 1
        assert np.array_equal(decode(data), picture().transpose(2, 0, 1))

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", TEXT]
    )
    def test_damaged_exif_turns_nothing(self, exif: bytes) -> None:
        data = encoded(Image.fromarray(picture()), exif=exif)
        assert np.array_equal(decode(data), picture().transpose(2, 0, 1))

    def test_the_header_is_read_without_the_pixels(self) -> None:
        """EXIF behind the pixels could be found only by decoding them; here that would fail."""
        data = self.oriented(Image.fromarray(picture()), 6)
        cut = data[: data.index(b"IDAT") + 20]
        assert images.read_header(cut).orientation == 6
        place = cut.index(b"eXIf") - 4
        length = 12 + int.from_bytes(cut[place : place + 4], "big")
        assert images.read_header(cut[:place] + cut[place + length :]).orientation == 1

    def test_exif_behind_the_pixels_turns_nothing(self) -> None:
        """In the header as in the pixels: the two must agree."""
        data = self.oriented(Image.fromarray(picture()), 6)
        place = data.index(b"eXIf") - 4
        length = 12 + int.from_bytes(data[place : place + 4], "big")
        moved = data[:place] + data[place + length : -12] + data[place : place + length] + data[-12:]
        assert images.read_header(moved).orientation == 1
        assert np.array_equal(decode(moved), picture().transpose(2, 0, 1))


class TestRefusals:
    @staticmethod
    def refused(data: bytes, because: str, limits: Limits = LIMITS, geometry: Geometry = RGB) -> None:
        with pytest.raises(ImageError, match=because):
            images.read_header(data, limits)
        with pytest.raises(ImageError, match=because):
            images.decode(EncodedImage(data), geometry, ImageFit.RESIZE_CROP, limits)
        (problem,) = images.check(EncodedImage(data), geometry, ImageFit.RESIZE_CROP, limits)
        with pytest.raises(ImageError) as caught:
            images.read_header(data, limits)
        assert problem == str(caught.value)
        assert "\n" not in problem
        assert "object at 0x" not in problem

    def test_nothing(self) -> None:
        self.refused(b"", "is empty; send")

    def test_too_many_bytes(self) -> None:
        data = encoded(Image.fromarray(picture()))
        self.refused(data, f"has {len(data)} bytes; at most {len(data) - 1}", Limits(max_bytes=len(data) - 1))
        assert images.read_header(data, Limits(max_bytes=len(data))).size == (30, 20)

    def test_too_many_pixels(self) -> None:
        data = encoded(Image.fromarray(picture()))
        self.refused(data, "has 30x20 pixels; at most 599", Limits(max_pixels=599))
        assert images.read_header(data, Limits(max_pixels=600)).size == (30, 20)

    @pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (10_000, 10_000), (2**31 - 1, 1), (7000, 7000)])
    def test_bombs(self, width: int, height: int) -> None:
        self.refused(png(width, height), "pixels")

    def test_bombs_beyond_pillows_own_limits(self) -> None:
        """Whatever the operator allows, Pillow's warning (an exception here) and its error become ImageError."""
        allowed = Limits(max_pixels=10**10)
        self.refused(png(10_000, 10_000), "has too many pixels", allowed)
        self.refused(png(60_000, 60_000), "has too many pixels", allowed)

    @pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
    def test_other_formats(self, format: str) -> None:
        self.refused(encoded(Image.fromarray(picture()), format), "not a readable PNG, JPEG or WebP file; convert")

    def test_postscript_never_reaches_an_interpreter(self) -> None:
        self.refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\nshowpage\n", "not a readable")

    @pytest.mark.parametrize("format", ["PNG", "WEBP"])
    def test_animations(self, format: str) -> None:
        frames = [Image.fromarray(picture() + np.uint8(shift)) for shift in (0, 90, 180)]
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        self.refused(data, "is an animation of 3 frames; send one still image")

    def test_sixteen_bits(self) -> None:
        grey = encoded(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100))
        self.refused(grey, "has 16 bits a channel, and the pixel grid is 8-bit; convert")
        # Pillow itself would read the next two as 8 bits a channel, without a word.
        self.refused(png(30, 20, depth=16, colour=2, rows=b"\0" * 20 * 181), "has 16 bits a channel")
        self.refused(png(30, 20, depth=16, colour=6, rows=b"\0" * 20 * 241), "has 16 bits a channel")

    def test_headers_of_millions_of_segments(self) -> None:
        jpeg = encoded(Image.fromarray(picture()), "JPEG")
        self.refused(png(30, 20, extra=chunk(b"tEXt", b"k\0v") * 100_000), "too many segments")
        self.refused(jpeg[:2] + b"\xff\xe5\x00\x02" * 100_000 + jpeg[2:], "too many segments")
        self.refused(jpeg[:2] + b"\xff\xff" * 100_000 + jpeg[2:], "too many segments")

    def test_ordinary_metadata_is_no_obstacle(self) -> None:
        data = encoded(Image.fromarray(picture()), "JPEG", icc_profile=b"\0" * 600_000, comment=b"c" * 60_000)
        assert decode(data).shape == RGB.shape
        assert decode(png(30, 20, extra=chunk(b"tEXt", b"k\0v") * 500, rows=b"\0" * 20 * 91)).max() == 0

    def test_text_that_inflates_without_end(self) -> None:
        bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(5_000_000)))
        self.refused(png(30, 20, extra=bomb), "not a readable PNG")


class TestDamage:
    FILES: ClassVar[dict[str, bytes]] = {
        "PNG": encoded(Image.fromarray(picture(60, 90))),
        "JPEG": encoded(Image.fromarray(picture(60, 90)), "JPEG"),
        "WEBP": encoded(Image.fromarray(picture(60, 90)), "WEBP"),
        "WEBP-lossless": encoded(Image.fromarray(picture(60, 90)), "WEBP", lossless=True),
    }
    GEOMETRY = Geometry(3, 60, 90, "rgb")

    @pytest.mark.parametrize("file", FILES)
    @pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.8, 0.9, 0.95])
    def test_cut_short(self, file: str, share: float) -> None:
        data = self.FILES[file]
        with pytest.raises(ImageError):
            images.decode(EncodedImage(data[: int(len(data) * share)]), self.GEOMETRY, ImageFit.EXACT, LIMITS)

    @pytest.mark.parametrize("file", ["PNG", "JPEG"])
    def test_header_without_pixels(self, file: str) -> None:
        """Only decoding can know that the pixels are missing; the message says so."""
        data = self.FILES[file]
        cut = EncodedImage(data[: int(len(data) * 0.9)])
        assert images.check(cut, self.GEOMETRY, ImageFit.EXACT, LIMITS) == []
        with pytest.raises(ImageError, match=f"is a damaged or truncated {file} file .*; send it again"):
            images.decode(cut, self.GEOMETRY, ImageFit.EXACT, LIMITS)

    def test_every_changed_byte_of_a_png_is_noticed(self) -> None:
        """Pillow's decoder alone would miss a third of them: it looks at no checksum."""
        data = self.FILES["PNG"]
        for place in range(data.index(b"IDAT"), len(data) - 12):  # the last chunk only says that it is the last
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            with pytest.raises(ImageError):
                images.decode(EncodedImage(bytes(damaged)), self.GEOMETRY, ImageFit.EXACT, LIMITS)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=300), st.sampled_from([b"", SIGNATURE, b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8 "]))
    def test_random_bytes_raise_nothing_else(self, data: bytes, start: bytes) -> None:
        self._only_image_errors(start + data)

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(sorted(FILES)), st.data())
    def test_flipped_bytes_raise_nothing_else(self, file: str, draw: st.DataObject) -> None:
        data = bytearray(self.FILES[file])
        for _ in range(draw.draw(st.integers(1, 4))):
            place = draw.draw(st.integers(0, min(len(data), 1000) - 1))
            data[place] = draw.draw(st.integers(0, 255))
        self._only_image_errors(bytes(data))

    def _only_image_errors(self, data: bytes) -> None:
        for fit in ImageFit:
            image = EncodedImage(data)
            problems = images.check(image, self.GEOMETRY, fit, Limits(max_pixels=1_000_000))
            try:
                pixels = images.decode(image, self.GEOMETRY, fit, Limits(max_pixels=1_000_000))
            except ImageError:
                continue
            assert not problems
            assert pixels.shape == self.GEOMETRY.shape

    def test_running_out_of_memory_is_not_the_images_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhausted(*_: Any, **__: Any) -> None:
            raise MemoryError

        image = EncodedImage(self.FILES["PNG"])
        monkeypatch.setattr(images, "_upright", exhausted)
        with pytest.raises(MemoryError):
            images.decode(image, self.GEOMETRY, ImageFit.EXACT, LIMITS)
        monkeypatch.setattr(Image, "open", exhausted)
        with pytest.raises(MemoryError):
            images.read_header(image.data)


class TestFit:
    def test_exact_refuses_another_size_and_names_the_way_out(self) -> None:
        image = EncodedImage(encoded(Image.fromarray(picture(30, 20))))
        (problem,) = images.check(image, RGB, ImageFit.EXACT, LIMITS)
        assert problem == "must have 30x20 pixels (width x height), not 20x30; the fit resize-crop resizes it"
        with pytest.raises(ImageError, match="must have 30x20"):
            images.decode(image, RGB, ImageFit.EXACT, LIMITS)

    @pytest.mark.parametrize(
        ("geometry", "size", "resized"),
        [
            (Geometry(3, 224, 224, "rgb", 256), (500, 375), (341, 256)),  # as torchvision's Resize(256)
            (Geometry(3, 224, 224, "rgb", 256), (375, 500), (256, 341)),
            (Geometry(3, 224, 224, "rgb", 256), (100, 100), (256, 256)),
            (Geometry(3, 224, 224, "rgb"), (500, 375), (298, 224)),
            (Geometry(3, 224, 224, "rgb"), (375, 500), (224, 298)),
            (Geometry(3, 20, 40, "rgb"), (100, 100), (40, 40)),
            (Geometry(3, 40, 20, "rgb"), (100, 100), (40, 40)),
            (Geometry(3, 20, 40, "rgb"), (300, 100), (60, 20)),
            (Geometry(3, 20, 40, "rgb"), (200, 100), (40, 20)),
            (Geometry(3, 20, 40, "rgb"), (1, 1), (40, 40)),
        ],
    )
    def test_resized(self, geometry: Geometry, size: tuple[int, int], resized: tuple[int, int]) -> None:
        assert geometry.resized(*size) == resized

    @given(*[st.integers(1, 60)] * 4, st.integers(0, 20) | st.none())
    def test_resized_always_covers(self, height: int, width: int, w: int, h: int, more: int | None) -> None:
        resize = None if more is None else max(height, width) + more
        found = Geometry(1, height, width, "grey", resize).resized(w, h)
        assert found[0] >= width
        assert found[1] >= height
        assert min(found) == resize if resize else found[0] == width or found[1] == height

    @pytest.mark.parametrize(("width", "height"), [(161, 80), (80, 161), (81, 80), (400, 80)])
    @pytest.mark.parametrize("resize", [None, 64])
    def test_the_centre_is_kept(self, width: int, height: int, resize: int | None) -> None:
        """A bright square in the middle of the file is in the middle of the result, to within half a pixel."""
        file = np.zeros((height, width, 3), np.uint8)
        side = 20
        top, left = (height - side) // 2, (width - side) // 2
        file[top : top + side, left : left + side] = 255
        geometry = Geometry(3, 40, 40, "rgb", resize)
        pixels = decode(encoded(Image.fromarray(file)), geometry, ImageFit.RESIZE_CROP).astype(float)
        mass = pixels.sum()
        for axis in (1, 2):
            sums = pixels.sum(axis=tuple({0, 1, 2} - {axis}))
            assert abs((sums * (np.arange(40) + 0.5)).sum() / mass - 20) <= 0.5
            scale = (resize or 40) / 80
            assert sums.max() / sums.sum() == pytest.approx(1 / (side * scale), rel=0.1)

    def test_equals_resize_then_crop_in_pillow(self) -> None:
        image = Image.fromarray(picture(75, 100))
        pixels = decode(encoded(image), Geometry(3, 32, 32, "rgb", 40), ImageFit.RESIZE_CROP)
        resized = image.resize((53, 40), Image.Resampling.BICUBIC).crop((10, 4, 42, 36))
        assert np.array_equal(pixels, np.asarray(resized).transpose(2, 0, 1))

    def test_shrinking_is_antialiased(self) -> None:
        stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
        pixels = decode(encoded(Image.fromarray(stripes)), Geometry(1, 8, 8, "grey"), ImageFit.RESIZE_CROP)
        assert np.abs(pixels.astype(int) - 127).max() <= 8

    def test_the_right_size_is_left_alone(self) -> None:
        data = encoded(Image.fromarray(picture()))
        assert np.array_equal(decode(data, RGB, ImageFit.RESIZE_CROP), decode(data))

    def test_orientation_comes_before_the_crop(self) -> None:
        stored = Image.fromarray(np.rot90(picture(20, 60)).copy())
        data = TestOrientation.oriented(stored, 6)
        upright = encoded(Image.fromarray(picture(20, 60)))
        expected = decode(upright, RGB, ImageFit.RESIZE_CROP)
        assert np.array_equal(decode(data, RGB, ImageFit.RESIZE_CROP), expected)

    def test_slivers_are_refused_before_they_grow(self) -> None:
        image = EncodedImage(encoded(Image.new("L", (200_000, 1))))
        geometry = Geometry(3, 224, 224, "rgb", 256)
        (problem,) = images.check(image, geometry, ImageFit.RESIZE_CROP, LIMITS)
        assert problem.startswith("is too elongated: 200000x1 pixels")
        with pytest.raises(ImageError, match="too elongated"):
            images.decode(image, geometry, ImageFit.RESIZE_CROP, LIMITS)

    def test_real_photographs(self, shared_data: Path) -> None:
        """All 50, a greyscale one among them, against the way torchvision writes it down."""
        geometry = Geometry(3, 224, 224, "rgb", 256)
        files = sorted((shared_data / "imagenet-samples").glob("*.JPEG"))
        assert len(files) == 50
        for file in files[::5]:
            pixels = decode(file.read_bytes(), geometry, ImageFit.RESIZE_CROP)
            with Image.open(file) as opened:
                image = opened.convert("RGB")
            short = min(image.size)
            sides = [int(256 * side / short) for side in image.size]
            left, top = (round((side - 224) / 2.0 - 0.25) for side in sides)
            expected = image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
            assert np.array_equal(
                pixels, np.asarray(expected.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
            )


class TestRaw:
    GEOMETRY = Geometry(3, 4, 5, "rgb")

    def problems(self, pixels: npt.NDArray[Any], fit: ImageFit = ImageFit.EXACT) -> list[str]:
        found = images.check(RawImage(pixels), self.GEOMETRY, fit, LIMITS)
        if found:
            with pytest.raises(ImageError) as caught:
                images.decode(RawImage(pixels), self.GEOMETRY, fit, LIMITS)
            assert str(caught.value) == "; ".join(found)
        return found

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("fit", ImageFit)
    def test_a_good_tensor_comes_out_as_it_went_in(self, dtype: type[np.generic], fit: ImageFit) -> None:
        pixels = (np.arange(60).reshape(3, 4, 5) / (59 if dtype is np.float32 else 1)).astype(dtype)
        assert self.problems(pixels, fit) == []
        found = images.decode(RawImage(pixels), self.GEOMETRY, fit, LIMITS)
        assert found.dtype == dtype
        assert np.array_equal(found, pixels)
        assert not np.shares_memory(found, pixels)

    def test_the_result_is_contiguous_and_writable(self) -> None:
        pixels = np.zeros((5, 4, 3), np.uint8).transpose(2, 1, 0)
        pixels.flags.writeable = False
        found = images.decode(RawImage(pixels), self.GEOMETRY, ImageFit.EXACT, LIMITS)
        assert found.flags.c_contiguous
        assert found.flags.owndata
        assert found.flags.writeable

    def test_bgr_tensors_are_already_as_the_model_takes_them(self) -> None:
        pixels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
        geometry = Geometry(3, 4, 5, "bgr")
        assert np.array_equal(images.decode(RawImage(pixels), geometry, ImageFit.EXACT, LIMITS), pixels)

    @pytest.mark.parametrize("shape", [(3, 5, 4), (1, 4, 5), (4, 5), (4, 5, 3), (1, 3, 4, 5), (), (0,)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        (problem,) = self.problems(np.zeros(shape, np.uint8))
        assert problem.startswith(f"must have the shape (3, 4, 5) (channels, height, width), not {shape};")
        (problem,) = self.problems(np.zeros(shape, np.float32), ImageFit.RESIZE_CROP)
        assert problem.endswith("a tensor is never resized: send an encoded image")

    @pytest.mark.parametrize("dtype", ["f8", "f2", "i8", "i1", "?", ">f4", "c8", "O"])
    def test_dtypes(self, dtype: Any) -> None:
        (problem,) = self.problems(np.zeros((3, 4, 5), dtype))
        assert problem == f"has the dtype {np.dtype(dtype)}; send uint8 values, or float32 values in [0, 1]"

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers(self, value: float) -> None:
        pixels = np.zeros((3, 4, 5), np.float32)
        pixels[1, 2, 3] = value
        assert self.problems(pixels) == ["has values that are not finite; send float32 values in [0, 1]"]

    @pytest.mark.parametrize("value", [-1e-7, np.nextafter(np.float32(1), np.float32(2)), 255.0])
    def test_values_out_of_range(self, value: float) -> None:
        pixels = np.full((3, 4, 5), 0.5, np.float32)
        pixels[0, 0, 0] = value
        (problem,) = self.problems(pixels)
        assert "send float32 values in [0, 1]" in problem

    def test_the_ends_of_the_range_are_in_it(self) -> None:
        assert self.problems(np.tile(np.array([0, 1], np.float32), 30).reshape(3, 4, 5)) == []

    def test_everything_at_once(self) -> None:
        assert len(self.problems(np.full((2, 2), 7, np.float32))) == 2
        assert len(self.problems(np.full((2, 2), 7, np.float64))) == 2


class TestOnGrid:
    EXACT = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(1, 16, 16)

    def test_all_256_values(self) -> None:
        found = images.on_grid(self.EXACT)
        assert found is not None
        assert found.dtype == np.uint8
        assert found.ravel().tolist() == list(range(256))

    def test_any_layout(self) -> None:
        found = images.on_grid(self.EXACT.transpose(0, 2, 1))
        assert found is not None
        assert np.array_equal(found[0], np.arange(256).reshape(16, 16).T)

    @pytest.mark.parametrize("towards", [-1.0, 2.0])
    @pytest.mark.parametrize("k", range(256))
    def test_no_neighbour_is_on_it(self, k: int, towards: float) -> None:
        pixels = self.EXACT.copy()
        pixels.ravel()[k] = np.nextafter(pixels.ravel()[k], np.float32(towards))
        assert images.on_grid(pixels) is None

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 256 / 255, -1 / 255, 1e38, 0.5, 1e-45])
    def test_other_values(self, value: float) -> None:
        assert images.on_grid(np.array([[[0.0, value]]], np.float32)) is None

    def test_the_quotient_of_uint8_is_on_it(self) -> None:
        pixels = picture().transpose(2, 0, 1)
        found = images.on_grid((pixels / np.float32(255)).astype(np.float32))
        assert found is not None
        assert np.array_equal(found, pixels)

    def test_other_dtypes_are_misuse(self) -> None:
        with pytest.raises(TypeError, match="expected float32 pixels, not float64"):
            images.on_grid(self.EXACT.astype(np.float64))


class TestDescriptions:
    @pytest.mark.parametrize(
        ("geometry", "fit", "phrase"),
        [
            (Geometry(1, 28, 28, "grey"), ImageFit.EXACT, "the 28x28 grey pixels as decoded"),
            (Geometry(3, 20, 30, "bgr", 40), ImageFit.EXACT, "the 30x20 BGR pixels as decoded"),
            (
                Geometry(3, 224, 224, "rgb", 256),
                ImageFit.RESIZE_CROP,
                "the 224x224 RGB pixels after resizing the shorter side to 256 (bicubic) and cropping the centre",
            ),
            (
                Geometry(3, 20, 30, "rgb"),
                ImageFit.RESIZE_CROP,
                "the 30x20 RGB pixels after resizing to just cover 30x20 (bicubic) and cropping the centre",
            ),
        ],
    )
    def test_encoded(self, geometry: Geometry, fit: ImageFit, phrase: str) -> None:
        assert images.describe_space(EncodedImage(b"?"), geometry, fit) == phrase

    @pytest.mark.parametrize("fit", ImageFit)
    def test_raw(self, fit: ImageFit) -> None:
        assert images.describe_space(RawImage(np.zeros(1)), RGB, fit) == "the raw tensor as sent"


class TestDigest:
    def test_is_what_the_docstring_says(self) -> None:
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        assert images.pixel_digest(pixels) == hashlib.sha256(b"uint8:2x3x4:" + bytes(range(24))).hexdigest()

    def test_tells_dtype_shape_and_values_apart(self) -> None:
        pixels = np.zeros((1, 4, 6), np.uint8)
        other = pixels.copy()
        other[0, 3, 5] = 1
        variants: list[npt.NDArray[Any]] = [pixels, other, pixels.reshape(1, 6, 4), pixels.view(np.int8)]
        assert len({images.pixel_digest(variant) for variant in variants}) == len(variants)

    def test_does_not_depend_on_the_layout_or_the_machine(self) -> None:
        pixels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
        assert images.pixel_digest(np.asfortranarray(pixels)) == images.pixel_digest(pixels)
        assert images.pixel_digest(pixels.astype(">f4")) == images.pixel_digest(pixels)


class TestEncode:
    @pytest.mark.parametrize("geometry", [RGB, GREY, Geometry(3, 20, 30, "bgr")])
    def test_decoding_gives_it_back(self, geometry: Geometry) -> None:
        pixels = np.ascontiguousarray(picture().transpose(2, 0, 1)[: geometry.channels])
        assert np.array_equal(decode(images.encode_png(pixels, geometry.colour), geometry), pixels)

    def test_bgr_is_stored_as_rgb(self) -> None:
        data = images.encode_png(np.array([[[1]], [[2]], [[3]]], np.uint8), "bgr")
        with Image.open(io.BytesIO(data)) as image:
            assert image.getpixel((0, 0)) == (3, 2, 1)

    @pytest.mark.parametrize(
        ("pixels", "colour"),
        [
            (np.zeros((3, 4, 5), np.float32), "rgb"),
            (np.zeros((4, 5), np.uint8), "grey"),
            (np.zeros((4, 4, 5), np.uint8), "rgb"),
            (np.zeros((3, 4, 5), np.uint8), "grey"),
            (np.zeros((3, 4, 5), np.uint8), "cmyk"),
            (np.zeros((3, 0, 5), np.uint8), "rgb"),
        ],
    )
    def test_misuse(self, pixels: Any, colour: str) -> None:
        with pytest.raises(ValueError, match=r"expected|channels|at least"):
            images.encode_png(pixels, colour)


class TestValues:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((3, 4, 4, "yuv"), "expected the colour grey, rgb or bgr, not 'yuv'"),
            ((1, 4, 4, "rgb"), "rgb has 3 channels, not 1"),
            ((3, 4, 4, "grey"), "grey has 1 channels, not 3"),
            ((3, 0, 4, "rgb"), "at least 1, not 0 and 4"),
            ((3, 4, -1, "rgb"), "at least 1, not 4 and -1"),
            ((3, 4, 6, "rgb", 5), "resize must cover 6x4 pixels, which 5 does not"),
        ],
    )
    def test_geometry(self, arguments: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Geometry(*arguments)

    @pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (-1, 1)])
    def test_limits(self, arguments: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            Limits(*arguments)

    @pytest.mark.parametrize(("kind", "value"), [(EncodedImage, "text"), (RawImage, [[1]])])
    def test_images_of_the_wrong_type(self, kind: Any, value: object) -> None:
        with pytest.raises(TypeError, match="expected"):
            kind(value)

    def test_raw_images_compare_by_their_pixels(self) -> None:
        pixels = np.zeros((1, 2, 2), np.uint8)
        assert RawImage(pixels) == RawImage(pixels.copy())
        assert hash(RawImage(pixels)) == hash(RawImage(pixels.copy()))
        assert RawImage(pixels) != RawImage(pixels + np.uint8(1))
        assert RawImage(pixels) != RawImage(pixels.astype(np.float32))
        assert RawImage(pixels) != RawImage(pixels[0])
        assert RawImage(pixels) != "an image"

    def test_a_representation_is_short(self) -> None:
        assert len(repr(EncodedImage(bytes(10**6)))) < 100
        assert len(repr(RawImage(np.zeros(10**6)))) < 100
