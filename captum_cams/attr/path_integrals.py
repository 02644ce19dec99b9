"""Several integrals along one path."""

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._validation import check_flags, kind_of
from captum_cams.attr._cam import Maps
from captum_cams.attr._path_cam import (
    Integrand,
    PathCamAttribution,
    PathRequest,
    checked_rule,
)
from captum_cams.path import INTERVAL_RULES, IntervalRule, Path, straight_line


class LayerPathIntegrals(PathCamAttribution):
    r"""
    RSI-Grad-CAM, Integrated Grad-CAM and conductance from the same points of a path.

    Each of them walks from a baseline to the input and asks the network for the layer's
    activations and gradients on the way, which is almost all that it costs. Here the
    points are evaluated once for all of them.

    Constructed as :class:`LayerRSIGradCam`.

    Examples::

        >>> from captum_cams.attr.integrated_grad_cam import IntegratedGradCam
        >>> from captum_cams.attr.rsi_grad_cam import RSIGradCam, UnitIntegrals
        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> integrals = LayerPathIntegrals(model, model.block5)
        >>> rsi, igc, units = integrals.attribute(
        ...     pictures.images,
        ...     [RSIGradCam(), IntegratedGradCam(), UnitIntegrals()],
        ...     target=pictures.labels,
        ... )
        >>> rsi.shape, igc.shape, units.shape
        (torch.Size([2, 1, 4, 4]), torch.Size([2, 1, 4, 4]), torch.Size([2, 64, 4, 4]))
    """

    # fmt: off
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], integrands: Sequence[Integrand],
        baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ...,
        method: IntervalRule | None = ..., internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, tolerance: float | None = ..., return_alphas: Literal[False] = ...,
        path: Path = ..., show_progress: bool = ...,
    ) -> list[Maps]: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], integrands: Sequence[Integrand],
        baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ...,
        method: IntervalRule | None = ..., internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[True], tolerance: float | None = ...,
        path: Path = ..., show_progress: bool = ...,
    ) -> tuple[list[Maps], list[Tensor]]: ...
    # fmt: on
    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
        integrands: Sequence[Integrand],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: IntervalRule | None = None,
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        tolerance: float | None = None,
        return_alphas: bool = False,
        path: Path = straight_line,
        show_progress: bool = False,
    ) -> Any:
        r"""
        What each integrand makes of the path.

        Arguments that are not described here are those of
        :meth:`LayerRSIGradCam.attribute`.

        Args:
            inputs (Tensor or tuple of Tensor): Examples to explain, N along the first
                axis, of a floating dtype.
            integrands (sequence of Integrand): What is integrated:
                ``rsi_grad_cam.RSIGradCam(weighting=...)``,
                ``integrated_grad_cam.IntegratedGradCam(...)``,
                ``rsi_grad_cam.UnitIntegrals()`` for conductance, of `captum_cams.attr`,
                or an integrand of your own.
            tolerance (float, optional): Points are added, as there, until the estimated
                error of each integrand's map is at most this share of it.

        Returns:
            *list* of **maps**, one entry for each integrand, as the method of that name
            returns them. With `return_alphas` a pair of that and **alphas**.

        Raises:
            ValueError, TypeError: If an argument does not fit.
        """
        _check_integrands(integrands)
        check_flags(return_alphas=return_alphas)
        rule = checked_rule(method, INTERVAL_RULES, tolerance)
        request = PathRequest(
            inputs,
            baselines,
            target,
            additional_forward_args,
            n_steps,
            method,
            internal_batch_size,
            attribute_to_layer_input,
            grad_kwargs,
            tolerance,
            path,
            show_progress,
        )
        found = self._integrate(request, integrands, rule)
        return (found.maps, found.alphas) if return_alphas else found.maps


def _check_integrands(integrands: object) -> None:
    """Integrands in a sequence, at least one."""
    listed = isinstance(integrands, Sequence) and list(integrands)
    if not listed or not all(isinstance(one, Integrand) for one in listed):
        given = ", ".join(map(kind_of, listed)) if listed else kind_of(integrands)
        raise TypeError(
            "integrands must be a list of integrands such as "
            f"captum_cams.attr.rsi_grad_cam.RSIGradCam(), got {given}"
        )
