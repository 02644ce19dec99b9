import io
import itertools

import pytest
import torch
from matplotlib import colormaps, pyplot
from PIL import Image

from captum_cams import _lettering
from captum_cams.masks import upsample
from captum_cams.visualization import blend, curves, overlay, panel

N, H, W = 2, 24, 32


@pytest.fixture
def images():
    return torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(0))


def cells(figure):
    """All axes but those of color bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def drawn(axes):
    """The map's image, which lies above the picture, as an array."""
    return axes.get_images()[1]


def test_a_row_for_each_picture_and_a_column_for_each_method(images):
    maps = {"one": torch.rand(N, 1, 3, 4), "two": torch.rand(N, 6, 5)}
    figure = panel(images, maps, ["cat", "dog"])
    titles = [axes.get_title() for axes in cells(figure)]
    assert titles == ["cat", "one", "two", "dog", "", ""]
    picture = cells(figure)[3].get_images()[0].get_array()
    torch.testing.assert_close(torch.tensor(picture), images[1].movedim(0, -1))


def test_maps_are_upsampled_and_scaled_each_by_its_own_peak(images):
    maps = torch.rand(N, 1, 3, 4) * torch.tensor([1.0, 1e-6]).view(N, 1, 1, 1)
    figure = panel(images, {"cam": maps})
    wanted = upsample(maps, (H, W)).squeeze(1)
    for i, axes in enumerate(cells(figure)[1::2]):
        values = torch.tensor(drawn(axes).get_array())
        torch.testing.assert_close(values, wanted[i] / wanted[i].max())
        assert axes.get_xlabel() == f"{wanted[i].max():.2g}"


def test_with_eps_a_dark_map_stays_dark(images):
    bright = torch.rand(1, 1, 3, 4)
    constant = torch.full_like(bright, 0.1)  # upsampled, it must stay constant
    maps = {
        "bright": torch.cat([bright, bright - 0.5]),
        "dark": torch.cat([bright * 1e-12, 0 * bright]),
        "flat": torch.cat([constant, torch.full_like(bright, torch.nan)]),
    }
    cam = upsample(bright, (H, W)).squeeze()
    extent = cam.max() - cam.min()
    wanted = (cam - cam.min()) / (extent + 0.5)
    first = cells(panel(images, maps, eps=0.5))[1:4]
    torch.testing.assert_close(torch.tensor(drawn(first[0]).get_array()), wanted)
    figure = panel(images, maps, eps=1e-8)
    _, bright, dark, flat, _, signed, zero, broken = cells(figure)
    for axes in (bright, signed):  # signed maps have their least value at 0 too
        assert drawn(axes).get_array().min() == pytest.approx(0, abs=1e-6)
        assert drawn(axes).get_array().max() == pytest.approx(1, abs=1e-6)
        assert drawn(axes).get_clim() == (0, 1)
        assert drawn(axes).to_rgba(0)[3] == pytest.approx(0.8)  # dark is not clear
    assert 0 < drawn(dark).get_array().max() < 1e-3
    for axes in (flat, zero):
        assert (drawn(axes).get_array() == 0).all()
    assert (zero.get_xlabel(), broken.get_xlabel()) == ("0", "not finite")
    (bar,) = [axes for axes in figure.axes if axes not in cells(figure)]
    assert bar.get_ylabel() == "normalized map, eps 1e-08"
    own = cells(panel(images, maps))[2]
    assert drawn(own).get_array().max() == 1
    for eps in (0, -1, torch.nan):
        with pytest.raises(ValueError, match=r"eps must .* got"):
            panel(images, maps, eps=eps)


def test_signed_maps_diverge_from_zero_and_positive_ones_do_not(images):
    positive, signed = torch.rand(N, 3, 4), torch.rand(N, 3, 4)
    signed[1, 0, 0] = -2
    figure = panel(images, {"positive": positive, "signed": signed})
    _, one, two, *_ = (axes.get_images()[-1] for axes in cells(figure))
    assert (one.get_clim(), one.get_cmap().name) == ((0, 1), "plasma")
    # All maps of a method are colored alike, also those that are nowhere negative.
    assert (two.get_clim(), two.get_cmap().name) == ((-1, 1), "RdBu_r")
    assert len(figure.axes) - len(cells(figure)) == 2  # a color bar of each kind


@pytest.mark.parametrize("figure", [overlay, panel])
def test_a_maps_value_is_its_opacity(images, figure):
    maps = torch.rand(N, H, W)
    maps[0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    options = {"alpha": 0.6, "cmap": "cividis"}
    given = maps if figure is overlay else {"cam": maps}
    axes = cells(figure(images, given, **options))[int(figure is panel)]
    picture, cam = axes.get_images()
    torch.testing.assert_close(
        torch.tensor(picture.get_array()), images[0].movedim(0, -1)
    )
    least, largest, half = cam.to_rgba(cam.get_array())[0, :3]
    assert least[3] == 0
    assert largest[3] == pytest.approx(0.6)
    assert half[3] == pytest.approx(0.3, abs=2e-3)
    assert largest[:3] == pytest.approx(colormaps["cividis"](1.0)[:3])
    # Of signed maps it is the magnitude.
    signed = {"cam": maps - 0.5} if figure is panel else maps - 0.5
    cam = cells(figure(images, signed))[int(figure is panel)].get_images()[1]
    colors = cam.to_rgba(torch.tensor([-1.0, -0.5, 0.0, 0.5]).numpy())
    assert colors[:, 3] == pytest.approx([0.8, 0.4, 0.0, 0.4], abs=4e-3)


def test_blended_pixels_are_those_of_the_figures(images):
    maps = torch.rand(N, H, W) - 0.3
    maps[1] = 0
    pixels = blend(images, maps, alpha=0.5)
    _, cam = cells(overlay(images, maps, alpha=0.5))[0].get_images()
    colors = torch.tensor(cam.to_rgba(cam.get_array())).float()  # (H, W, 4)
    opacity = colors[..., 3:]
    wanted = images[0].movedim(0, -1) * (1 - opacity) + colors[..., :3] * opacity
    torch.testing.assert_close(pixels[0], wanted.movedim(-1, 0), rtol=0, atol=1e-5)
    assert torch.equal(pixels[1], images[1])
    assert torch.equal(blend(images, maps * torch.nan), images)


@pytest.mark.parametrize("figure", [overlay, panel])
def test_colors_and_opacity_that_cannot_be(images, figure):
    maps = torch.rand(N, H, W) if figure is overlay else {"cam": torch.rand(N, H, W)}
    for alpha in (0, 1.5, torch.nan):
        with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\], got"):
            figure(images, maps, alpha=alpha)
    for cmap in ("no such", 3):
        with pytest.raises(ValueError, match="cmap must be a Colormap of matplotlib"):
            figure(images, maps, cmap=cmap)
    assert figure(images, maps, cmap=colormaps["gray"])


@pytest.mark.parametrize("methods", [7, 8, 14, 16])
def test_many_methods_go_on_in_further_rows(images, methods):
    maps = {f"cam {i}": torch.full((N, 3, 4), i + 1.0) for i in range(methods)}
    figure = panel(images, maps, ["cat", "dog"])
    shown = cells(figure)
    assert len(shown) == N * (1 + methods)
    # Of each row on the page, from left to right: nothing lies in the column of the
    # picture, and all lie below it and above the next picture.
    figure.savefig(io.BytesIO(), format="png")
    across = max(axes.get_subplotspec().colspan.stop for axes in shown)
    assert across <= 8
    first = [axes for axes in shown if axes.get_subplotspec().colspan.start == 0]
    assert [axes.get_title() for axes in first] == ["cat", "dog"]
    top, bottom = (axes.get_position().y0 for axes in first)
    notes = [[], []]
    for axes in shown:
        if axes not in first:
            y = axes.get_position().y0
            notes[int(y <= bottom + 1e-6)].append(axes.get_xlabel())
            assert y <= top + 1e-6
    assert notes == [[str(i + 1) for i in range(methods)]] * N
    titles = [axes.get_title() for axes in shown if axes not in first]
    again = [*maps] if methods > 7 else [""] * methods
    assert titles == [*maps, *again]


def test_many_pictures_go_on_in_further_rows():
    pictures = torch.rand(11, 3, 8, 8)
    shown = cells(overlay(pictures, torch.rand(11, 2, 2)))
    assert len(shown) == 11
    assert max(axes.get_subplotspec().colspan.stop for axes in shown) == 6


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (0.0, "zero map"),
        (torch.nan, "not finite"),
        (torch.inf, "not finite"),
        (-torch.inf, "not finite"),
    ],
)
def test_a_map_that_cannot_be_scaled_is_left_out_with_a_note(images, value, note):
    maps = torch.rand(N, 3, 4)
    maps[1] = (
        maps[1] * 0 if value == 0 else maps[1].index_fill(0, torch.tensor(1), value)
    )
    first, second = cells(overlay(images, maps))
    assert len(first.get_images()) == 2
    assert len(second.get_images()) == 1
    assert second.get_xlabel() == note


def test_boxes_are_drawn_at_pixel_edges(images):
    boxes = torch.tensor([[0.0, 0.0, 32.0, 24.0], [3.0, 4.0, 10.0, 12.0]])
    for figure in (
        panel(images, {"cam": torch.rand(N, 3, 4)}, boxes=boxes),
        overlay(images, torch.rand(N, 3, 4), boxes=boxes),
    ):
        box = cells(figure)[-1].patches[0]
        assert box.get_bbox().extents.tolist() == [2.5, 3.5, 9.5, 11.5]


def test_a_picture_may_have_several_boxes_or_none(images):
    boxes = [torch.zeros(0, 4), torch.rand(3, 4)]
    first, second = cells(overlay(images, torch.rand(N, 3, 4), boxes=boxes))
    assert len(first.patches) == 0
    assert len(second.patches) == 2 * 3  # a dark and a bright line each


def test_figures_are_pictures_and_pyplot_knows_nothing_of_them(images):
    open_before = pyplot.get_fignums()
    figure = panel(images, {"a": torch.rand(N, 3, 4)}, [r"cost $\frac", "x" * 99])
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert Image.open(file).format == "PNG"
    assert pyplot.get_fignums() == open_before


def test_graphs_half_precision_and_rounding_beyond_one_are_no_matter(images):
    maps = torch.rand(N, 1, 3, 4, dtype=torch.float16, requires_grad=True)
    figure = panel((images + 1e-5).requires_grad_(), {"cam": maps})
    assert len(cells(figure)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(N, 1, H, W)}, r"images must be .* got shape \(2, 1"),
        ({"images": torch.rand(3, H, W)}, r"images must be pictures of three colors"),
        ({"images": torch.rand(N, 3, H, W) * 4 - 2}, r"images must lie in \[0, 1\]"),
        ({"images": torch.full((N, 3, H, W), torch.nan)}, "got values from nan"),
        ({"attributions": {"a": torch.rand(N, 5, 3, 4)}}, r"attributions\['a'\] must"),
        ({"attributions": {"a": torch.rand(1, 3, 4)}}, "one map for each of 2"),
        ({"titles": ["one"]}, "titles must be as many as the pictures, 2, got 1"),
        ({"boxes": torch.rand(3, 4)}, "boxes must be as many as the pictures, 2"),
    ],
)
def test_what_does_not_fit_is_named(images, change, message):
    fitting = {"images": images, "attributions": {"a": torch.rand(N, 3, 4)}}
    with pytest.raises(ValueError, match=message):
        panel(**{**fitting, **change})


def lines_of(figure):
    """The titles of the first cells, when all is drawn, and of which fonts."""
    figure.savefig(io.BytesIO(), format="png")  # a missing glyph would be a warning
    return [axes.title for axes in cells(figure)]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("plain é.png", "plain é.png"),
        ("a$x$b_c^2.png", "a$x$b_c^2.png"),
        (r"cost $\frac.png", r"cost $\frac.png"),
        # No font that matplotlib brings has these.
        ("\U00012000\U0001f9ff.png", r"\U00012000\U0001f9ff.png"),
        ("a\x1b\u202e\u200b\udcff", r"a\x1b\u202e\u200b\udcff"),
        ("two words", "two words"),
        ("a" * 99 + "b.png", "a" * 29 + "…" + "a" * 25 + "b.png"),
    ],
)
def test_names_are_drawn_as_they_are_or_spelled_out(images, name, drawn, monkeypatch):
    installed = _lettering.font_manager.fontManager.ttflist
    brought = [font for font in installed if "matplotlib" in font.fname]
    monkeypatch.setattr(_lettering.font_manager.fontManager, "ttflist", brought)
    monkeypatch.setattr(_lettering, "_FAMILIES", {})
    figure = panel(images, {name: torch.rand(N, 3, 4)}, [name, "\n"])
    row, column, last, _ = lines_of(figure)
    for title in (row, column):
        assert title.get_text().replace("\n", "") == drawn
        assert not title.get_parse_math()
    assert last.get_text().strip() == ""
    legend = curves({name: torch.rand(2, 3)}).axes[0].get_legend()
    assert legend.get_texts()[0].get_text()[:4] == drawn[:4]
    legend.figure.savefig(io.BytesIO(), format="png")


def test_letters_come_from_any_installed_font(images):
    # STIXGeneral, which matplotlib brings, has what its default font lacks.
    name = "a\N{COMBINING ENCLOSING CIRCLE}b"
    title = lines_of(overlay(images[:1], torch.rand(1, 3, 4), [name]))[0]
    assert title.get_text() == name
    assert title.get_fontfamily()[0] == "sans-serif"
    assert "Last Resort" not in "".join(title.get_fontfamily())


def test_fonts_are_looked_through_once_for_each_letter(monkeypatch):
    looked = []
    manager = _lettering.font_manager
    get_font = manager.get_font
    monkeypatch.setattr(_lettering, "_FAMILIES", {})
    monkeypatch.setattr(
        manager, "get_font", lambda path: looked.append(path) or get_font(path)
    )
    for name in ("plain", "a $ é"):
        _lettering.legible(name)
    assert len({*looked}) == 1  # the default one
    _lettering.legible("\U00012000")
    assert len({*looked}) > 1
    looked.clear()
    _lettering.legible("x\U00012000")
    assert len({*looked}) == 1


@pytest.mark.parametrize("methods", [1, 3])
@pytest.mark.parametrize("name", ["W" * 99, "wide words " * 9, "山" * 20, "i-" * 40])
def test_titles_do_not_reach_their_neighbors(images, name, methods):
    maps = {f"{i}{name}": torch.rand(N, 3, 4) - i % 2 for i in range(methods)}
    figure = panel(images, maps, [name, name])
    boxes = [title.get_window_extent() for title in lines_of(figure)[: 1 + methods]]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    assert boxes[0].x0 >= 0


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_curve_is_the_mean_and_its_area_stands_in_the_legend():
    falling = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.1, 0.2]])
    figure = curves({"cam": falling, "random": torch.full((1, 5), 0.25)})
    (axes,) = figure.axes
    cam, random = axes.get_lines()
    assert cam.get_xdata().tolist() == [0, 0.5, 1]
    assert cam.get_ydata().tolist() == pytest.approx([1, 0.3, 0.1])
    assert random.get_xdata().tolist() == [0, 0.25, 0.5, 0.75, 1]
    # (1 + 0.3) / 4 + (0.3 + 0.1) / 4
    assert labels(axes) == ["cam: 0.425", "random: 0.250"]


def test_deletion_and_insertion_share_a_methods_line():
    a, b = torch.rand(3, 4), torch.rand(3, 4)
    figure = curves({"a": a, "b": b}, {"b": b, r"$\frac": a})
    left, right = figure.axes
    assert "removed" in left.get_xlabel()
    assert "shown" in right.get_xlabel()
    assert left.get_lines()[1].get_color() == right.get_lines()[0].get_color()
    strokes = {
        (line.get_color(), line.get_linestyle())
        for line in (*left.get_lines(), *right.get_lines())
    }
    assert len(strokes) == 3
    figure.savefig(io.BytesIO(), format="png")
    assert len(curves(insertion={"a": a}).axes) == 1


def test_curves_that_are_not_finite_are_left_out_with_a_note():
    values = torch.tensor([[1.0, 0.0], [torch.nan, 0.0]])
    (axes,) = curves({"cam": values, "none": values[1:]}).axes
    assert labels(axes) == ["cam: 0.500 (1 of 2 not finite)", "none: not finite"]
    assert axes.get_lines()[0].get_ydata().tolist() == [1, 0]
    assert len(axes.get_lines()[1].get_xdata()) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "deletion or insertion must name a method and its curves, got neither"),
        ({"deletion": {"a": torch.rand(3)}}, r"deletion\['a'\] must hold a curve"),
        ({"insertion": {"a": torch.rand(2, 1)}}, r"got shape \(2, 1\)"),
    ],
)
def test_what_are_no_curves_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        curves(**arguments)
