"""The layouts that other tools write weights in, one file a tool; the first that fits is used."""

from swinclf.models.weights.layouts.dinov2 import DINOV2
from swinclf.models.weights.layouts.google import GOOGLE
from swinclf.models.weights.layouts.layout import Layout
from swinclf.models.weights.layouts.microsoft import MICROSOFT

LAYOUTS: tuple[Layout, ...] = (GOOGLE, MICROSOFT, DINOV2)
