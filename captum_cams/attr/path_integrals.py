"""Several integrals along one path."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from torch import Tensor
from torch.nn import Module

from captum_cams._captum import BaselineType, TargetType, log_usage
from captum_cams._validation import check_flags, kind_of
from captum_cams.attr._cam import Maps
from captum_cams.attr._path_cam import PathCamAttribution, PathRequest, checked_rule
from captum_cams.attr.integrands import Integrand
from captum_cams.attr.integrated_grad_cam import IntegratedGradCamIntegrand
from captum_cams.attr.rsi_grad_cam import ConductanceIntegrand, RSIGradCamIntegrand
from captum_cams.path import Path, straight_line
from captum_cams.quadrature import INTERVAL_RULES, IntervalRule
from captum_cams.reshape import Transform


class LayerPathIntegrals(PathCamAttribution):
    r"""
    RSI-Grad-CAM, Integrated Grad-CAM and conductance from the same points of a path.

    Each of them asks the network for a layer's activations and gradients at points
    between a baseline and the input, which is almost all that it costs. Here the points
    are evaluated once for all of them.

    Args:
        forward_func (Callable): The forward function of the model or any
            modification of it.
        layer (torch.nn.Module or list of torch.nn.Module): As in
            :class:`LayerRSIGradCam`.
        device_ids (list of int, optional): As there.
        integrands (sequence of Integrand, optional): What is integrated:
            ``rsi_grad_cam.RSIGradCamIntegrand(weighting=...)``,
            ``integrated_grad_cam.IntegratedGradCamIntegrand(...)``,
            ``rsi_grad_cam.ConductanceIntegrand()``, all of `captum_cams.attr`, or
            integrands of your own, see :mod:`captum_cams.attr.integrands`.
            Default: None, these three in this order
        reshape_transform (Callable, optional): As there.

    Examples::

        >>> from captum_cams.examples import shape_pictures, shapes_model
        >>> model, pictures = shapes_model(), shape_pictures(2)
        >>> integrals = LayerPathIntegrals(model, model.block5)
        >>> rsi, igc, units = integrals.attribute(
        ...     pictures.images, target=pictures.labels
        ... )
        >>> rsi.shape, igc.shape, units.shape
        (torch.Size([2, 1, 4, 4]), torch.Size([2, 1, 4, 4]), torch.Size([2, 64, 4, 4]))
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Module | list[Module],
        device_ids: list[int] | None = None,
        *,
        integrands: Sequence[Integrand] | None = None,
        reshape_transform: Transform | None = None,
    ) -> None:
        super().__init__(
            forward_func, layer, device_ids, reshape_transform=reshape_transform
        )
        if integrands is None:
            integrands = (
                RSIGradCamIntegrand(),
                IntegratedGradCamIntegrand(),
                ConductanceIntegrand(),
            )
        _check_integrands(integrands)
        self.integrands = tuple(integrands)

    # fmt: off
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[False] = ..., tolerance: float | None = ...,
        path: Path = ..., show_progress: bool = ...,
    ) -> list[Maps]: ...

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: BaselineType = ...,
        target: TargetType = ..., additional_forward_args: object = ...,
        n_steps: int = ..., method: IntervalRule | None = ...,
        internal_batch_size: int | None = ...,
        attribute_to_layer_input: bool = ..., grad_kwargs: dict[str, Any] | None = ...,
        *, return_alphas: Literal[True], tolerance: float | None = ...,
        path: Path = ..., show_progress: bool = ...,
    ) -> tuple[list[Maps], list[Tensor]]: ...
    # fmt: on
    @log_usage(part_of_slo=True)
    def attribute(  # noqa: PLR0913, PLR0917
        self,
        inputs: Tensor | tuple[Tensor, ...],
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
        All integrals along one path.

        Arguments that are not described here are those of
        :meth:`LayerRSIGradCam.attribute`.

        Args:
            tolerance (float, optional): Points are added until the estimated error of
                the map of each integrand is at most this share of it. Default: None,
                `n_steps` equal intervals

        Returns:
            *list* of **maps**, an entry for each integrand, in the form in which
            :meth:`LayerRSIGradCam.attribute` returns its own. With `return_alphas` a
            pair of that and **alphas**, as there.

        Raises:
            ValueError, TypeError: If an argument does not fit.
        """
        check_flags(return_alphas=return_alphas)
        rule = checked_rule(method, INTERVAL_RULES, tolerance)
        request = PathRequest(
            inputs=inputs,
            baselines=baselines,
            target=target,
            additional_forward_args=additional_forward_args,
            n_steps=n_steps,
            internal_batch_size=internal_batch_size,
            attribute_to_layer_input=attribute_to_layer_input,
            grad_kwargs=grad_kwargs,
            tolerance=tolerance,
            path=path,
            show_progress=show_progress,
        )
        found = self._integrate(request, self.integrands, rule)
        return (found.maps, found.alphas) if return_alphas else found.maps


def _check_integrands(integrands: object) -> None:
    """Integrands in a sequence, at least one."""
    listed = list(integrands) if isinstance(integrands, (list, tuple)) else []
    if not listed or not all(isinstance(one, Integrand) for one in listed):
        given = ", ".join(map(kind_of, listed)) if listed else kind_of(integrands)
        raise TypeError(
            "integrands must be a list of integrands such as "
            f"captum_cams.attr.rsi_grad_cam.RSIGradCamIntegrand(), got {given}"
        )
